"""`regraft embed`: write the features of images, computed by a frozen backbone, to a file.

They are the features that `train` learns from, under the same keys of the store. The file has one row per
image with its path, its class and part if known, and the features f0000, f0001, ... as float32:

| file | content |
|---|---|
| `.parquet` | a column each; the recipe in the schema's metadata under "regraft" |
| `.csv` | the same columns; numbers with as many digits as give the same float32 again |
| `.npz` | arrays `features` (n, d), `names` (d,), `path` (n,), and `class`, `part` |
| `.npy` | one structured array with the fields `path`, `class`, `part`, and `features` (d,) |

No format needs pickle.
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

from regraft.backbones.info import locate_backbone, locate_weights
from regraft.data.catalog import Catalog
from regraft.data.folders import list_all_images
from regraft.data.samples import RejectedFile, report_notes
from regraft.data.table_files import is_table
from regraft.errors import DataError, EnvironmentFault, UsageError, wrap_os_errors
from regraft.evaluation.problems import find_range_cautions
from regraft.pipeline.context import Context
from regraft.pipeline.outputs import require_inputs_outside, require_new_file
from regraft.pipeline.prepare import extract_and_remember, open_backbone, report_loading, report_refused
from regraft.recipe import HeadSpec, Recipe
from regraft.system.backend import claim_backend
from regraft.system.console import TERMINAL, Reporter
from regraft.system.files import make_temporary_folder

if TYPE_CHECKING:
    import keras

    from regraft.features.extract import Features

__all__ = [
    "POOLINGS",
    "EmbedResult",
    "FeatureTable",
    "FeatureWriter",
    "check_pooling",
    "choose_writer",
    "embed",
    "load_embedding_network",
    "read_vectors",
]

POOLINGS = ("avg", "max", "both")  # those without weights, which would have to be learned


@dataclass(frozen=True)
class EmbedResult:
    """The file that `embed` wrote, its number of images, of features per row, and the refused files."""

    path: Path
    images: int
    features: int
    refused: tuple[RejectedFile, ...]


def embed(
    data: str | PathLike[str],
    recipe: Recipe | None = None,
    out: str | PathLike[str] = "features.parquet",
    *,
    overwrite: bool = False,
    trust: bool = False,
    store: str | PathLike[str] | None = None,
) -> EmbedResult:
    """Write the features of images to a file, as the command `regraft embed` does.

    They are float32 with eleven significant bits, as in the store.

    Args:
        data: a folder, with or without class folders, of which every image below it gets a row; or a table
            with the columns that the recipe names, whose target is optional.
        recipe: backbone, weights, pixels, classifier, image size, depth, precision, `head.pooling`, and the
            columns of a table; everything else is ignored.
        out: the file to write; its extension chooses the format.
        overwrite: replace `out` if it exists.
        trust: you know where a SavedModel comes from; see `load_backbone`.
        store: the folder of computed features; None for the user's cache.

    Raises:
        UsageError: an unknown extension, `out` exists already or is read by this call, or a pooling that has
            weights to learn.
        DataError, EnvironmentFault, ModelRefused: see `train`. `out` is then unchanged.

    Example:
        result = embed("photos", Recipe(backbone="resnet50"), "features.parquet")
        pandas.read_parquet(result.path).filter(regex="^f[0-9]")
    """
    recipe, out = recipe or Recipe(), Path(out)
    require_inputs_outside(out, data, recipe, store=store)
    write, context = _check_output(out, overwrite=overwrite), Context.open(store, trust=trust)
    with ExitStack() as stack:
        with wrap_os_errors(f"{out} cannot be written"):
            folder = stack.enter_context(make_temporary_folder(out.parent, f".{out.name}.writing-"))
        catalog = replace(_list_images(context, Path(data), recipe), depth=recipe.depth)
        network = load_embedding_network(recipe, trust=trust, reporter=context.reporter)
        features = extract_and_remember(context, network, catalog, replace(recipe, phases=()))
        catalog = catalog.exclude(features.refused)
        report_refused(context.reporter, catalog)
        for caution in find_range_cautions(catalog, features.facts(catalog.samples)):
            context.reporter.warn(caution)
        recipe_text = replace(recipe, data=fspath(data)).to_toml()
        table = FeatureTable(_make_columns(catalog), read_vectors(features, network, catalog), recipe_text)
        with wrap_os_errors(f"{out} cannot be written"):
            write(folder / out.name, table)
            (folder / out.name).replace(out)
    return EmbedResult(out, len(catalog), table.features.shape[1], catalog.refused)


def _check_output(out: Path, *, overwrite: bool) -> FeatureWriter:
    """Check that a file can be written, and return the writer for its format."""
    writer = choose_writer(out)
    require_new_file(out, overwrite=overwrite)
    if not out.parent.is_dir():
        raise EnvironmentFault(f"There is no folder {out.parent} to write {out.name} to.")
    return writer


# --- the network


def load_embedding_network(
    recipe: Recipe, *, trust: bool = False, reporter: Reporter = TERMINAL
) -> keras.Model:
    """Return a recipe's backbone as a network from RGB pixels 0..255 (b, size, size, 3) to {"cut_0": (b, d)}.

    The last two networks stay in memory, because every fold of a cross-validation asks for the same one. A
    network is never trained; a file with new content gives a new network. `trust` is as in `load_backbone`.

    Raises:
        UsageError, EnvironmentFault, ModelRefused: see `load_backbone`; or a pooling has weights to learn.

    Example:
        >>> network = load_embedding_network(Recipe(backbone="vgg16", weights="random", image_size=32))
        >>> list(network.output.values())[-1].shape
        (None, 512)
    """
    claim_backend()
    check_pooling(recipe.head.pooling)
    relevant = Recipe(
        backbone=recipe.backbone,
        weights=recipe.weights,
        pixels=recipe.pixels,
        classifier=recipe.classifier,
        image_size=recipe.image_size,
        seed=recipe.seed if recipe.weights == "random" else 0,
        head=HeadSpec(pooling=recipe.head.pooling, taps=recipe.head.taps),
    )
    paths = locate_backbone(recipe.backbone), locate_weights(recipe.weights)
    digests = "".join(_digest_content(path) for path in paths if path is not None)
    return _load_network(relevant, digests, trust, reporter)


@lru_cache(maxsize=2)
def _load_network(recipe: Recipe, digests: str, trust: bool, reporter: Reporter) -> keras.Model:
    from regraft.models.joint_taps import make_pooled_network

    backbone = open_backbone(recipe, trust=trust, reporter=reporter)
    report_loading(reporter, backbone)
    return make_pooled_network(backbone, recipe.head)


def read_vectors(features: Features, network: keras.Model, catalog: Catalog) -> NDArray[np.float32]:
    """Return the last output of a pooled network for a catalog's samples, (n, d), in their order."""
    return np.asarray(features.matrix(catalog.samples, list(network.output)[-1]), np.float32)


def check_pooling(pooling: str) -> None:
    """Raise a UsageError for a pooling that has weights to learn."""
    if pooling not in POOLINGS:
        raise UsageError(
            f"pooling: expected {', '.join(POOLINGS)}, as nothing is learned here. Received: {pooling}."
        )


def _digest_content(path: Path) -> str:
    """Return a digest of a file, or of all files in a folder."""
    digest = hashlib.blake2b(digest_size=16)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()


# --- the images


def _list_images(context: Context, path: Path, recipe: Recipe) -> Catalog:
    """List a table as `train` does, and every image below a folder, with its class where it has one."""
    if is_table(path):
        # Without a target every image is a class of its own, which `_make_columns` drops.
        target = recipe.target or recipe.image
        task = recipe.task if recipe.target else "multiclass"
        return Catalog.open(path, replace(recipe, target=target, task=task))
    catalog = Catalog(*list_all_images(path, reporter=context.reporter))
    if not catalog.samples:
        notes = "".join(f" {note}" for note in catalog.notes)
        raise DataError(
            f"No images in {path} that can be used; {len(catalog.refused)} files were refused.{notes}"
        )
    report_notes(context.reporter, catalog.notes)
    return catalog.as_task("auto")


# --- the file


class FeatureTable(NamedTuple):
    """A table of features: text `columns` by name, float32 `features` (n, d), and the `recipe` as TOML."""

    columns: dict[str, list[str]]
    features: NDArray[np.float32]
    recipe: str

    @property
    def feature_names(self) -> list[str]:
        """The names of the features.

        >>> FeatureTable({}, np.zeros((1, 2), np.float32), "").feature_names
        ['f0000', 'f0001']
        """
        return [f"f{number:04}" for number in range(self.features.shape[1])]


FeatureWriter = Callable[[Path, FeatureTable], None]


def _make_columns(catalog: Catalog) -> dict[str, list[str]]:
    """Return the path of each sample, and its class and part if known."""
    columns = {
        "path": [", ".join(image.path for image in sample.images) for sample in catalog.samples],
        "class": [catalog.describe_target(sample) for sample in catalog.samples],
        "part": [sample.part for sample in catalog.samples],
    }
    if columns["class"] == columns["path"]:
        del columns["class"]
    return {
        name: [value.encode("utf-8", "backslashreplace").decode() for value in values]
        for name, values in columns.items()
        if any(values)
    }


def choose_writer(out: Path) -> FeatureWriter:
    """Return the function that writes the format of this file's extension.

    Raises:
        UsageError: an unknown extension.
        EnvironmentFault: Parquet, and its package is not installed.
    """
    writer = _WRITERS.get(out.suffix.lower())
    if writer is None:
        raise UsageError(f"Expected a file ending in {', '.join(_WRITERS)}. Received: {out}.")
    if writer is _write_parquet:
        _import_pyarrow()
    return writer


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentFault(
            'Parquet needs pyarrow: pip install "regraft[parquet]". Or choose a file ending in .csv or .npz.'
        ) from error
    return pyarrow


def _write_parquet(path: Path, table: FeatureTable) -> None:
    pyarrow = _import_pyarrow()
    numbers = dict(zip(table.feature_names, np.ascontiguousarray(table.features.T), strict=True))
    arrow_table = pyarrow.table({**table.columns, **numbers})
    pyarrow.parquet.write_table(arrow_table.replace_schema_metadata({"regraft": table.recipe}), path)


def _write_csv(path: Path, table: FeatureTable) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*table.columns, *table.feature_names])
        for numbers, texts in zip(table.features, zip(*table.columns.values(), strict=True), strict=True):
            writer.writerow([*texts, *map(str, numbers)])  # the fewest digits that give this float32


def _write_npz(path: Path, table: FeatureTable) -> None:
    texts: dict[str, Any] = {name: np.array(values) for name, values in table.columns.items()}
    with path.open("wb") as file:  # to a path, NumPy would add an extension of its own
        np.savez(file, features=table.features, names=np.array(table.feature_names), **texts)


def _write_npy(path: Path, table: FeatureTable) -> None:
    fields: dict[str, NDArray[Any]] = {name: np.array(values) for name, values in table.columns.items()}
    fields["features"] = table.features
    types: Any = [(name, values.dtype, values.shape[1:]) for name, values in fields.items()]
    rows = np.empty(len(table.features), types)
    for name, values in fields.items():
        rows[name] = values
    with path.open("wb") as file:
        np.save(file, rows, allow_pickle=False)


_WRITERS: dict[str, FeatureWriter] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".npz": _write_npz,
    ".npy": _write_npy,
}
