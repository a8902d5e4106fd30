"""The tree of errors, with one exit code for each branch.

    RegraftError                  1   anything regraft raises on purpose
    ├── UsageError                2   an option, an argument or a recipe is wrong   (also ValueError)
    ├── DataError                 3   the images or labels cannot be used           (also ValueError)
    ├── EnvironmentFault          4   disk, network, permission, missing package    (also OSError)
    │   └── BackendLimit          4   Keras' backend cannot run a network
    └── ModelRefused              5   a model file is not what it should be         (also ValueError)

A message says what was expected, what was received and how to fix it. Only `cli.main` catches these errors;
any other exception that reaches the user is a defect of regraft.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "BackendLimit",
    "DataError",
    "EnvironmentFault",
    "ModelRefused",
    "RegraftError",
    "UsageError",
    "describe_os_error",
    "shorten_error",
    "suggest_nearest",
    "wrap_os_errors",
]


class RegraftError(Exception):
    """The base of every error that regraft raises on purpose; catch this one to catch them all."""

    exit_code = 1


class UsageError(RegraftError, ValueError):
    """An option, an argument or a recipe is wrong."""

    exit_code = 2


class DataError(RegraftError, ValueError):
    """No model can be made from these images or labels."""

    exit_code = 3


class EnvironmentFault(RegraftError, OSError):  # noqa: N818 - the design's name
    """A disk, the network, a permission or a package is missing or refuses."""

    exit_code = 4


class BackendLimit(EnvironmentFault):
    """Keras' OpenVINO backend cannot run a network; another backend may.

    Attributes:
        reason: what the backend cannot do, as a sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason} Choose another backend: KERAS_BACKEND=tensorflow.")
        self.reason = reason


class ModelRefused(RegraftError, ValueError):  # noqa: N818 - the design's name
    """A model file is not what it claims to be."""

    exit_code = 5


def suggest_nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint that names the choice nearest to `word`, or the empty string.

    >>> suggest_nearest("resnet5", ["resnet50", "vgg16"])
    ' Did you mean "resnet50"?'
    """
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f' Did you mean "{matches[0]}"?' if matches else ""


def shorten_error(error: Exception, most: int = 300) -> str:
    """Return the first characters of an error message that may be pages long, as one line.

    >>> shorten_error(ValueError("a  long" + chr(10) + "story"), most=6)
    'a long ...'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[:most] + " ..."


def describe_os_error(error: OSError) -> str:
    """Return the system's reason for an error, without the file's name.

    >>> describe_os_error(FileNotFoundError(2, "No such file or directory", "photos"))
    'No such file or directory'
    """
    return error.strerror or str(error)


@contextmanager
def wrap_os_errors(problem: str) -> Iterator[None]:
    """Raise any OSError of the block as an EnvironmentFault: the problem, then the system's reason.

    >>> with wrap_os_errors("photos cannot be read"):
    ...     open("photos/nowhere")
    Traceback (most recent call last):
    regraft.errors.EnvironmentFault: photos cannot be read: No such file or directory.
    """
    try:
        yield
    except EnvironmentFault:
        raise
    except OSError as error:
        raise EnvironmentFault(f"{problem}: {describe_os_error(error)}.") from error
