"""A checkpoint: one file of arrays and JSON, written beside and moved into place. No pickle."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from regraft.beside import new_file
from regraft.errors import EnvironmentFault

__all__ = ["Arrays", "read_checkpoint", "write_checkpoint"]

Arrays = dict[str, list[NDArray[Any]]]


def write_checkpoint(path: Path, said: dict[str, Any], arrays: dict[str, Sequence[NDArray[Any]]]) -> None:
    """Write a checkpoint in the place of an earlier one: whoever reads finds the one or the other, whole.

    Args:
        path: its file.
        said: anything that JSON holds, NaN included.
        arrays: numbers of any type, in named lists.

    Raises:
        OSError: it cannot be written; the earlier one is as it was.
    """
    members = {
        f"{name}/{place}": _plain(value) for name, row in arrays.items() for place, value in enumerate(row)
    }
    head = {
        "said": said,
        "types": {name: [str(value.dtype) for value in row] for name, row in arrays.items()},
    }
    with new_file(path.parent, f".writing-{path.name}-") as beside:
        with beside.open("wb") as file:
            np.savez(file, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **cast("Any", members))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)


def read_checkpoint(path: Path) -> tuple[dict[str, Any], Arrays] | None:
    """What was written last, or None where nothing was.

    Raises:
        EnvironmentFault: the file is damaged or cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checkpoint(Path(folder) / "now.npz", {"epoch": 3}, {"best": [np.eye(2)]})
        ...     said, arrays = read_checkpoint(Path(folder) / "now.npz")
        >>> said, arrays["best"][0].tolist()
        ({'epoch': 3}, [[1.0, 0.0], [0.0, 1.0]])
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            head = json.loads(file["head"].tobytes())
            return head["said"], {
                name: [_typed(file[f"{name}/{place}"], kind) for place, kind in enumerate(kinds)]
                for name, kinds in head["types"].items()
            }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise EnvironmentFault(
            f"The checkpoint {path} is damaged ({error}). Begin anew: the same command without --resume."
        ) from error


def _plain(value: NDArray[Any]) -> NDArray[Any]:
    """Types that NumPy has not by itself, such as bfloat16, as bytes: it would give them back as nothing."""
    value = np.asarray(value, order="C")
    return value if value.dtype.isbuiltin == 1 else value.view(np.dtype(("V", value.dtype.itemsize)))


def _typed(value: NDArray[Any], kind: str) -> NDArray[Any]:
    if str(value.dtype) == kind:
        return value
    import ml_dtypes

    return value.view(getattr(ml_dtypes, kind))
