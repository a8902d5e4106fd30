"""The weights of a backbone: from Keras' cache, a download, a file or a random seed.

A file is found, checked and only then loaded, in full. One that does not fit is an error that names it, so a
network is never partly random; and a download is complete and checked before it takes its name.
"""

from __future__ import annotations

import http.client
import math
import queue
import threading
import urllib.request
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import h5py  # type: ignore[import-untyped]
import numpy as np

from regraft.backbones.graph import flatten_layers, list_own_weights
from regraft.backbones.zoo import WEIGHTS_WORDS, Entry, find_weights_on_disk, locate_keras_cache
from regraft.errors import EnvironmentFault, UsageError, shorten_error, suggest_nearest, wrap_os_errors
from regraft.model_scan.hdf5 import is_weight_name, read_arrays
from regraft.system.backend import compute_initial_values
from regraft.system.console import Reporter
from regraft.system.files import hash_file, make_temporary_folder

if TYPE_CHECKING:
    import keras

__all__ = [
    "DOWNLOAD_ERRORS",
    "Weights",
    "choose_weights",
    "count_classes",
    "download",
    "draw_weights",
    "expect_own_weights",
    "explain_unreachable",
    "find_published_weights",
    "find_weights",
    "hash_existing_file",
    "load_weights",
    "repair_scaling",
]

REACH_SECONDS = 6.0  # how long a server may take to begin its answer
STALL_SECONDS = 8.0  # how long it may then fall silent
BLOCK = 10**6  # bytes
OWN_WEIGHTS = "file"  # stands for the weights that a file of the user's own brings
ATTEMPTS = 2  # at a download that arrives damaged
DOWNLOAD_ERRORS = (OSError, ValueError, http.client.HTTPException)

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


# --- downloads


def explain_unreachable(url: str) -> str | None:
    """Return why `url` cannot be downloaded, or None; asks in a thread, as name look-up has no timeout."""
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=REACH_SECONDS):
                answers.put(None)
        except DOWNLOAD_ERRORS as fault:
            answers.put(str(fault) or type(fault).__name__)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=REACH_SECONDS)
    except queue.Empty:
        return f"no answer within {REACH_SECONDS:g} seconds"


def download(url: str, file: IO[bytes], *, reporter: Reporter) -> None:
    """Write the content of `url` to a file; `reporter` shows the progress.

    Raises:
        OSError, ValueError, http.client.HTTPException: it cannot be downloaded, or not all of it.
    """
    with urllib.request.urlopen(url, timeout=STALL_SECONDS) as response:
        size = response.headers.get("Content-Length")
        blocks = None if size is None else -(-int(size) // BLOCK)
        with reporter.track("Downloading", blocks, unit="MB") as advance:
            while block := response.read(BLOCK):
                file.write(block)
                advance(1)
    if size is not None and file.tell() != int(size):
        raise OSError(f"the connection broke off after {file.tell():,} of {int(size):,} bytes")


# --- weights


class Weights(NamedTuple):
    """A file of weights, or None for those that a model has already; and their origin as a phrase."""

    file: Path | None
    provenance: str


def choose_weights(weights: str | Path, seed: int) -> Weights | None:
    """Return the random weights or the file that the user asks for; None for "imagenet".

    Raises:
        UsageError: `weights` is another word, or a file that does not exist or holds no Keras weights.
        ModelRefused: the file points at other files, or holds values that are not finite numbers.
        EnvironmentFault: the file cannot be read.
    """
    if weights == "imagenet":
        return None
    if weights == "random":
        return Weights(None, f"random (seed {seed})")
    word = str(weights)
    if word.split(" ", 1)[0] == OWN_WEIGHTS and not Path(word).exists():
        raise UsageError(
            f"weights: {OWN_WEIGHTS} stands for those of a .keras file or a SavedModel. Received: {word} for "
            "another backbone."
        )
    if not isinstance(weights, Path) and not {".", "/", "\\"} & set(word) and not Path(word).exists():
        raise UsageError(
            'weights: expected "imagenet", "random" or the path of a file.'
            f"{suggest_nearest(word, WEIGHTS_WORDS)} Received: {weights}."
        )
    path = Path(weights)
    digest = hash_existing_file(path, "weights")
    _check_format(path)
    _check_arrays(path.resolve(), digest)
    return Weights(path, f"file {path.name} sha256 {digest}")


def expect_own_weights(weights: str | Path, name: str, digest: str | None) -> str | Path:
    """Return "imagenet", which leaves a file its own weights, for a text that stands for these.

    Args:
        weights: "file", or "file sha256 <hex>" as recipes record it; any other text is returned as it is.
        name, digest: the name of the file or folder, and its SHA-256; None where that is not known yet.

    Raises:
        UsageError: the file has another digest than the text says.

    >>> expect_own_weights("file", "mine.keras", "0" * 64), expect_own_weights("random", "mine.keras", "")
    ('imagenet', 'random')
    """
    if weights == OWN_WEIGHTS:
        return "imagenet"
    expected = str(weights).removeprefix(f"{OWN_WEIGHTS} sha256 ")
    if expected == str(weights):
        return weights
    if digest not in (None, expected):
        raise UsageError(
            f"weights: {name} has changed. Expected: sha256 {expected}. Received: {digest}. "
            f"To use it as it is now, set weights to {OWN_WEIGHTS}."
        )
    return "imagenet"


def draw_weights(model: keras.Model, seed: int) -> None:
    """Change a new model: give every kernel random weights, the same on every backend.

    They are uniform with the variance of Glorot and Bengio (2010); vectors keep their initial values.

    Args:
        model: changed in place.
        seed: the seed of the weights.
    """
    random = np.random.default_rng(seed)
    for layer in flatten_layers(model):
        for kernel in list_own_weights(layer):
            if len(kernel.shape) > 1:
                *window, inputs, outputs = kernel.shape
                limit = math.sqrt(6 / (math.prod(window) * (inputs + outputs)))
                kernel.assign(random.uniform(-limit, limit, kernel.shape).astype(np.float32))
    compute_initial_values(model)


def find_weights(entry: Entry, weights: str | Path, *, size: int, seed: int, reporter: Reporter) -> Weights:
    """Return the weights that the user asks for, downloaded where necessary; this does not import Keras.

    Raises:
        UsageError, EnvironmentFault: as `choose_weights` and `find_published_weights`.
    """
    return choose_weights(weights, seed) or find_published_weights(entry, size, reporter=reporter)


def find_published_weights(entry: Entry, size: int, *, reporter: Reporter) -> Weights:
    """Return the ImageNet weights for images of `size` pixels a side, downloaded where necessary.

    Raises:
        EnvironmentFault: they are not on this machine and cannot be downloaded, or are damaged.
    """
    path = find_weights_on_disk(entry, size) or _download_weights(entry, size, reporter)
    # Keras would download over a file that it finds changed, and delete it where there is no network.
    if difference := _find_difference(path, entry):
        raise EnvironmentFault(
            f"{path} is damaged or not the published file: {difference} Delete it to have it downloaded "
            "again, or name it as the file of weights."
        )
    return Weights(path, f"imagenet ({path.name}, sha256 {_hash_once(path, 'sha256')})")


def _find_difference(path: Path, entry: Entry) -> str:
    """Return a sentence on how a file differs from the published one; "" where it does not."""
    algorithm, _, expected = (entry.weights_hash or "").partition(":")
    if expected and (digest := _hash_once(path, algorithm)) != expected:
        return f"its {algorithm} is {digest}, expected {expected}."
    try:
        _check_format(path)
    except UsageError as fault:
        return str(fault)
    return ""


def _download_weights(entry: Entry, size: int, reporter: Reporter) -> Path:
    file, url = entry.weights_file_at(size), entry.weights_url_at(size)
    target = locate_keras_cache() / file
    reason = explain_unreachable(url)
    for _ in range(ATTEMPTS if reason is None else 0):
        try:
            _download_and_check(entry, url, target, reporter)
            return target
        except DOWNLOAD_ERRORS as fault:
            reason = shorten_error(fault)
    raise EnvironmentFault(
        f"The ImageNet weights of {entry.name} are not on this machine and cannot be downloaded: {reason}\n"
        f"  file: {file}\n  from: {url}\n"
        f"Either put that file into {locate_keras_cache()}, or give a file with --weights FILE, "
        "or start without pre-training with --weights random."
    )


def _download_and_check(entry: Entry, url: str, target: Path, reporter: Reporter) -> None:
    """Download a published file and move it to `target` once it is known to be that file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    reporter.info(f"Downloading the ImageNet weights of {entry.name} to {target}.")
    with make_temporary_folder(target.parent, ".writing-") as folder:
        with (folder / target.name).open("wb") as file:
            download(url, file, reporter=reporter)
        if difference := _find_difference(folder / target.name, entry):
            raise OSError(f"what the server sent is not the published file: {difference}")
        (folder / target.name).replace(target)


def _check_format(path: Path) -> None:
    """Check that a file of weights is what its name says: Keras picks its reader by the ending alone."""
    with path.open("rb") as stream:
        if stream.read(len(HDF5_MAGIC)) != HDF5_MAGIC:
            raise UsageError(
                f"weights: expected an HDF5 file of Keras weights. Received: {path}, which is not one."
            )
    try:
        with h5py.File(path, "r") as file:
            is_keras_2 = "model_weights" in file or any(key.startswith("layer_names") for key in file.attrs)
    except OSError as fault:
        raise UsageError(f"weights: {path} is damaged: {shorten_error(fault)}") from fault
    is_named_keras_3 = path.name.endswith(".weights.h5")
    if is_keras_2 == is_named_keras_3 or (is_keras_2 and path.suffix not in (".h5", ".hdf5")):
        ending = ".h5" if is_keras_2 else ".weights.h5"
        raise UsageError(
            f"weights: the name of {path} must end in {ending}, since it was written by "
            f"{'Keras 2' if is_keras_2 else 'Keras 3'}; Keras goes by the name. Rename it."
        )


def load_weights(model: keras.Model, path: Path, name: str) -> None:
    """Change `model`: read all its weights from a file; UsageError, which names it `name`, if they differ."""
    expected = f"{len(model.weights)} arrays, {model.count_params():,} numbers"
    try:
        with warnings.catch_warnings():
            # Keras warns of containers that it meets a second time; the count below shows what is missing.
            warnings.simplefilter("ignore", UserWarning)
            model.load_weights(path)
        # Keras skips layers of the file that the model lacks, and nested layers that the file lacks.
        if path.name.endswith(".weights.h5") and (count := len(_read_shapes(path))) != len(model.weights):
            raise ValueError(f"the model has {len(model.weights)} arrays, the file {count}.")
    except Exception as fault:  # Keras documents no type for a file that does not fit
        raise UsageError(
            f"weights: {path} holds weights of another architecture. Expected: {name} "
            f"({expected}). Keras says: {shorten_error(fault)}"
        ) from fault


def _read_shapes(path: Path) -> list[tuple[int, ...]]:
    """Return the shapes of a file's weights, without the state of optimizers and of random numbers."""
    shapes: list[tuple[int, ...]] = []

    def add(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and is_weight_name(name):
            shapes.append(item.shape)

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return shapes


def count_classes(path: Path, model: keras.Model) -> int | None:
    """Return the number of classes of the classifier in a file of weights.

    The layers of a classifier feed one another, so the number of classes is the only length of a bias that no
    kernel has as its input.

    Args:
        path: an HDF5 file of weights.
        model: the network without a classifier.

    Returns:
        The number of classes; None where the file has only the model's own arrays, or others that are not
        those of a classifier.
    """
    extra = Counter(_read_shapes(path)) - Counter(tuple(weight.shape) for weight in model.weights)
    inputs = {shape[-2] for shape in extra if len(shape) > 1}
    outputs = {shape[0] for shape in extra if len(shape) == 1} - inputs
    return outputs.pop() if len(outputs) == 1 else None


def repair_scaling(model: keras.Model) -> None:
    """Change the Normalization of an EfficientNetV1 in place, where it holds deviations as variances.

    The published files hold ImageNet's standard deviations d where the layer expects variances, so it divides
    by sqrt(d). Keras makes up for that by another layer that divides by sqrt(d) again, but only where it is
    given the word "imagenet", not the path of the file. Here the variances become d squared; any others stay
    as they are. Source: the comment in keras/src/applications/efficientnet.py.
    """
    deviation = np.array([0.229, 0.224, 0.225], "float32")
    import keras

    layer = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
    if np.allclose(keras.ops.convert_to_numpy(layer.adapt_variance), deviation, rtol=1e-3):
        layer.adapt_variance.assign(deviation**2)
        layer.finalize_state()


def _hash_once(path: Path, algorithm: str) -> str:
    with wrap_os_errors(f"{path} cannot be read"):
        state = path.stat()
        return _hash_state(path.resolve(), algorithm, (state.st_size, state.st_mtime_ns))


@cache  # a run hashes its file of weights before the backend is imported, and again when it loads the file
def _hash_state(path: Path, algorithm: str, state: tuple[int, int]) -> str:
    return hash_file(path, algorithm)


@cache  # by content: checking reads every value
def _check_arrays(path: Path, digest: str) -> None:
    read_arrays(path)


def hash_existing_file(path: Path, setting: str) -> str:
    """Return the SHA-256 of a file in hex; UsageError, which names the `setting`, where there is no file."""
    if not path.is_file():
        raise UsageError(f"{setting}: no such file: {path}.")
    return _hash_once(path, "sha256")
