"""Features as a file: one row an image.

Path, class and part where they are known, and the features f0000, f0001, ... as float32:

| file | what it holds |
|---|---|
| `.parquet` | a column each; the recipe in the schema's metadata under "regraft" |
| `.csv` | the same columns; numbers in as many digits as give the same float32 again |
| `.npz` | arrays `features` (n, d), `names` (d,), `path` (n,), and `class`, `part` |
| `.npy` | one structured array with the fields `path`, `class`, `part`, and `features` (d,) |

No format needs pickle.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.errors import EnvironmentFault, UsageError

__all__ = ["FeatureTable", "Writer", "choose_writer"]


class FeatureTable(NamedTuple):
    """`words`: column -> a text a row. `features`: float32 (n, d). `recipe`: what made them, as TOML."""

    words: dict[str, list[str]]
    features: NDArray[np.float32]
    recipe: str

    @property
    def names(self) -> list[str]:
        """Of the features.

        >>> FeatureTable({}, np.zeros((1, 2), np.float32), "").names
        ['f0000', 'f0001']
        """
        return [f"f{number:04}" for number in range(self.features.shape[1])]


Writer = Callable[[Path, FeatureTable], None]


def choose_writer(out: Path) -> Writer:
    """How to write a file with this extension.

    Raises:
        UsageError: no such extension is known.
        EnvironmentFault: it is Parquet, and its package is not here.
    """
    writer = _WRITERS.get(out.suffix.lower())
    if writer is None:
        raise UsageError(f"Expected a file ending in {', '.join(_WRITERS)}. Received: {out}.")
    if writer is _write_parquet:
        _pyarrow()
    return writer


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentFault(
            'Parquet needs pyarrow: pip install "regraft[parquet]". Or choose a file ending in .csv or .npz.'
        ) from error
    return pyarrow


def _write_parquet(path: Path, table: FeatureTable) -> None:
    pyarrow = _pyarrow()
    numbers = dict(zip(table.names, np.ascontiguousarray(table.features.T), strict=True))
    columns = pyarrow.table({**table.words, **numbers})
    pyarrow.parquet.write_table(columns.replace_schema_metadata({"regraft": table.recipe}), path)


def _write_csv(path: Path, table: FeatureTable) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*table.words, *table.names])
        for numbers, words in zip(table.features, zip(*table.words.values(), strict=True), strict=True):
            writer.writerow([*words, *map(str, numbers)])  # the fewest digits that are this float32


def _write_npz(path: Path, table: FeatureTable) -> None:
    words: dict[str, Any] = {name: np.array(values) for name, values in table.words.items()}
    with path.open("wb") as file:  # given a name, NumPy adds an ending of its own
        np.savez(file, features=table.features, names=np.array(table.names), **words)


def _write_npy(path: Path, table: FeatureTable) -> None:
    columns: dict[str, NDArray[Any]] = {name: np.array(values) for name, values in table.words.items()}
    columns["features"] = table.features
    kinds: Any = [(name, values.dtype, values.shape[1:]) for name, values in columns.items()]
    rows = np.empty(len(table.features), kinds)
    for name, values in columns.items():
        rows[name] = values
    with path.open("wb") as file:
        np.save(file, rows, allow_pickle=False)


_WRITERS: dict[str, Writer] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".npz": _write_npz,
    ".npy": _write_npy,
}
