"""Features as a file: one row an image.

Path, class and part where they are known, and the features f0000, f0001, ... as float32:

| file | what it holds |
|---|---|
| `.parquet` | a column each; the recipe in the schema's metadata under "regraft" |
| `.csv` | the same columns; numbers in as many digits as give the same float32 again |
| `.npz` | arrays `features` (n, d), `names` (d,), `path` (n,), and `class`, `part` |
| `.npy` | one structured array with the fields `path`, `class`, `part`, and `features` (d,) |

No format needs pickle.

`regraft embed`: the frozen backbone's features of images, as a file.

The same features as those `train` learns from, under the same keys of the store.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import TABLES, Catalog, list_images
from regraft.data.images.rejections import Refusal
from regraft.data.samples import Refused, Sample, look_at_all
from regraft.errors import DataError, EnvironmentFault, UsageError, name_os_errors
from regraft.pipeline.context import Context
from regraft.pipeline.prepare import extract, open_backbone, report_refused
from regraft.recipe import HeadSpec, Recipe
from regraft.system.atomic import new_folder
from regraft.system.console import TERMINAL, Reporter

if TYPE_CHECKING:
    import keras

    from regraft.backbones.load import Backbone
    from regraft.features.extract import Features

__all__ = [
    "POOLINGS",
    "VECTOR",
    "Embedded",
    "FeatureTable",
    "Writer",
    "check_pooling",
    "choose_writer",
    "embed",
    "embedding_network",
    "pooled_network",
    "read_vectors",
]


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


POOLINGS = ("avg", "max", "both")  # those without weights, so that nothing has to be learned
VECTOR = "cut_0"  # as `cut` names the only tensor of a frozen backbone: `train` finds the same features


@dataclass(frozen=True)
class Embedded:
    """What `embed` made: the file, its images and features a row, and what was refused."""

    path: Path
    images: int
    features: int
    refused: tuple[Refused, ...]


def embed(
    data: str | PathLike[str],
    recipe: Recipe | None = None,
    out: str | PathLike[str] = "features.parquet",
    *,
    overwrite: bool = False,
    trust: bool = False,
    store: str | PathLike[str] | None = None,
) -> Embedded:
    """Write the features of images to a file. What `regraft embed` calls.

    They are float32 with eleven significant bits, as the store has them.

    Args:
        data: a folder, of class folders or of anything else; or a table with the columns that the recipe
            names, the target being optional.
        recipe: backbone, weights, pixels, image size, `head.pooling`, and a table's columns; the rest of it
            does not matter here.
        out: the file to make; its extension says which kind.
        overwrite: replace `out` if it is there.
        trust: you know where a SavedModel comes from; see `load_backbone`.
        store: folder of computed features; None for the user's cache.

    Raises:
        UsageError: an unknown extension, `out` is there already, or a pooling that has to be learned.
        DataError, EnvironmentFault, ModelRefused: see `train`; then `out` is as it was.

    Example:
        found = embed("photos", Recipe(backbone="resnet50"), "features.parquet")
        pandas.read_parquet(found.path).filter(regex="^f[0-9]")
    """
    recipe, out = recipe or Recipe(), Path(out)
    write, context = _writer(out, overwrite=overwrite), Context.open(store, trust=trust)
    with ExitStack() as stack:
        with name_os_errors(f"{out} cannot be written"):
            beside = stack.enter_context(new_folder(out.parent, f".{out.name}.writing-"))
        catalog = _list_images(context, Path(data), recipe)
        network = embedding_network(recipe, trust=trust, reporter=context.reporter)
        features = extract(context, network, catalog, replace(recipe, phases=()))
        catalog = catalog.without(features.refused)
        report_refused(context.reporter, catalog)
        table = FeatureTable(
            _columns(catalog), read_vectors(features, catalog), replace(recipe, data=fspath(data)).to_toml()
        )
        with name_os_errors(f"{out} cannot be written"):
            write(beside / out.name, table)
            (beside / out.name).replace(out)
    return Embedded(out, len(catalog), table.features.shape[1], catalog.refused)


def read_vectors(features: Features, catalog: Catalog) -> NDArray[np.float32]:
    """Return the features of a catalog's samples, (n, d), in their order."""
    return np.asarray(features.matrix(catalog.samples, VECTOR), np.float32)


def embedding_network(recipe: Recipe, *, trust: bool = False, reporter: Reporter = TERMINAL) -> keras.Model:
    """The backbone of a recipe, from float RGB pixels (b, size, size, 3) in 0..255 to {"cut_0": (b, d)}.

    The last two are kept in memory: every fold of a cross-validation asks for the same one. It is never
    trained. A file that changed is another network. `trust` is as in `load_backbone`.

    Raises:
        UsageError, EnvironmentFault, ModelRefused: see `load_backbone`; or a pooling that has to be learned.

    Example:
        >>> network = embedding_network(Recipe(backbone="vgg16", weights="random", image_size=32))
        >>> network.outputs[0].shape
        (None, 512)
    """
    check_pooling(recipe.head.pooling)
    alike = Recipe(
        backbone=recipe.backbone,
        weights=recipe.weights,
        pixels=recipe.pixels,
        image_size=recipe.image_size,
        seed=recipe.seed if recipe.weights == "random" else 0,
        head=replace(Recipe().head, pooling=recipe.head.pooling),
    )
    return _open_network(alike, _contents(recipe.backbone) + _contents(recipe.weights), trust, reporter)


@lru_cache(maxsize=2)
def _open_network(recipe: Recipe, contents: str, trust: bool, reporter: Reporter) -> keras.Model:
    return pooled_network(open_backbone(recipe, trust=trust, reporter=reporter), recipe.head)


def pooled_network(backbone: Backbone, head: HeadSpec) -> keras.Model:
    """A backbone up to its pooled vector: what `train` cuts off where nothing trains, so under one key."""
    import keras

    from regraft.models.head import pooled

    return keras.Model(backbone.model.inputs[0], {VECTOR: pooled(backbone, head)})


def check_pooling(pooling: str) -> None:
    """Raises a UsageError for a pooling that has to be learned."""
    if pooling not in POOLINGS:
        raise UsageError(
            f"pooling: expected {', '.join(POOLINGS)}, as nothing is learned here. Received: {pooling}."
        )


def _contents(name: str) -> str:
    """A digest of the file or folder of this name; empty where there is none."""
    path, mix = Path(name), hashlib.blake2b(digest_size=16)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files if name else []:
        mix.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return mix.hexdigest() if files else ""


# --- which images


def _list_images(context: Context, path: Path, recipe: Recipe) -> Catalog:
    """Class folders and tables as for `train`; any other folder as images without a class."""
    if path.suffix.lower() in TABLES and not path.is_dir():
        # Without a target every image is a class of its own; `_columns` leaves that out.
        named = recipe.target or recipe.image
        task = recipe.task if recipe.target else "multiclass"
        return Catalog.open(path, replace(recipe, target=named, task=task))
    try:
        return Catalog.open(path, replace(recipe, task="auto"))
    except DataError:
        return _list_unlabelled(context, path)


def _list_unlabelled(context: Context, root: Path) -> Catalog:
    samples, refused = [], []
    files = list(list_images(root))
    for file, verdict in zip(files, look_at_all(files, reporter=context.reporter), strict=True):
        name = file.relative_to(root).as_posix()
        if isinstance(verdict, Refusal):
            refused.append(Refused(name, verdict.code, verdict.detail))
        else:
            samples.append(Sample(name, 0, verdict))
    if not samples:
        raise DataError(f"No images in {root} that can be used; {len(refused)} files were refused.")
    context.reporter.info(f"No class folders in {root}: {len(samples):,} images without a class.")
    return Catalog(root, ("",), tuple(samples), tuple(refused))


def _columns(catalog: Catalog) -> dict[str, list[str]]:
    """What is known of each sample besides its features."""
    columns = {
        "path": [", ".join(photo.path for photo in sample.photos) for sample in catalog.samples],
        "class": [catalog.words(sample) for sample in catalog.samples],
        "part": [sample.part for sample in catalog.samples],
    }
    if columns["class"] == columns["path"]:
        del columns["class"]
    return {
        name: [value.encode("utf-8", "backslashreplace").decode() for value in values]
        for name, values in columns.items()
        if any(values)
    }


def _writer(out: Path, *, overwrite: bool) -> Writer:
    """How to write this file, once nothing speaks against it."""
    writer = choose_writer(out)
    if out.is_dir():
        raise UsageError(f"Expected a file to make. Received: {out}, a folder.")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already. Choose another file, or replace it with --overwrite.")
    if not out.parent.is_dir():
        raise EnvironmentFault(f"There is no folder {out.parent} to write {out.name} to.")
    return writer
