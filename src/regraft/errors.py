"""What can go wrong, as a tree with one exit code a branch.

    RegraftError                  1   anything regraft raises on purpose
    ├── UsageError                2   an option, an argument or a recipe is wrong   (also ValueError)
    ├── DataError                 3   the images or labels cannot be used           (also ValueError)
    ├── EnvironmentFault          4   disk, network, permission, missing package    (also OSError)
    │   └── BackendLimit          4   Keras' backend cannot run a network
    └── ModelRefused              5   a model file is not what it should be         (also ValueError)

A message says what was expected, what was received and how to mend it. Only `cli.main` catches; any
other exception that reaches the user is a defect of regraft.
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
    "brief",
    "name_os_errors",
    "nearest",
]


class RegraftError(Exception):
    """Base of every error that regraft raises on purpose; catch this one to catch them all."""

    exit_code = 1


class UsageError(RegraftError, ValueError):
    """An option, an argument or a recipe that cannot be meant as it stands."""

    exit_code = 2


class DataError(RegraftError, ValueError):
    """Images or labels that no model can be made from."""

    exit_code = 3


class EnvironmentFault(RegraftError, OSError):  # noqa: N818 - the design's name
    """A disk, a network, a permission or a package that is not there."""

    exit_code = 4


class BackendLimit(EnvironmentFault):
    """Keras' OpenVINO backend cannot run a network; another backend may."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why} Choose another backend: KERAS_BACKEND=tensorflow.")
        self.why = why


class ModelRefused(RegraftError, ValueError):  # noqa: N818 - the design's name
    """A model file that is not what it claims to be."""

    exit_code = 5


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the known word nearest to `word`, or the empty string.

    >>> nearest("resnet5", ["resnet50", "vgg16"])
    ' Did you mean "resnet50"?'
    """
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f' Did you mean "{found[0]}"?' if found else ""


def brief(fault: Exception, most: int = 300) -> str:
    """The first words of an error that may run over pages, as one line.

    >>> brief(ValueError("a  long" + chr(10) + "story"), most=6)
    'a long ...'
    """
    words = " ".join(str(fault).split()) or type(fault).__name__
    return words if len(words) <= most else words[:most] + " ..."


@contextmanager
def name_os_errors(what: str) -> Iterator[None]:
    """Raise what the system refuses in the block as an EnvironmentFault: `what`, and the system's reason.

    >>> with name_os_errors("photos cannot be read"):
    ...     open("photos/nowhere")
    Traceback (most recent call last):
    regraft.errors.EnvironmentFault: photos cannot be read: No such file or directory.
    """
    try:
        yield
    except EnvironmentFault:
        raise
    except OSError as error:
        raise EnvironmentFault(f"{what}: {error.strerror or error}.") from error
