"""What comes over the network: whole, or not at all.

Where weights come from: Keras' cache, the network, a file, or a random seed.

Each file is found, checked and only then loaded, whole: a file that does not fit is an error that names it,
never a network that is partly random.
"""

from __future__ import annotations

import hashlib
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

from regraft.backbones.zoo import Entry, keras_cache, weights_on_disk
from regraft.errors import EnvironmentFault, UsageError, brief, nearest
from regraft.model_scan.hdf5 import read_arrays
from regraft.system.atomic import new_folder
from regraft.system.backend import settle_variables
from regraft.system.console import Reporter

if TYPE_CHECKING:
    import keras

__all__ = [
    "FAULTS",
    "Weights",
    "choose_weights",
    "classes_of",
    "complete_scaling",
    "draw_weights",
    "find_weights",
    "load_weights",
    "published_weights",
    "receive",
    "sha256",
    "unreachable",
]


REACH_SECONDS = 6.0  # how long a server has to begin its answer
STALL_SECONDS = 8.0  # how long it may fall silent
BLOCK = 10**6  # bytes

FAULTS = (OSError, ValueError, http.client.HTTPException)  # what goes wrong on the way


def unreachable(url: str) -> str | None:
    """Why `url` cannot be had, or None. A thread, since looking a name up knows no timeout."""
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=REACH_SECONDS):
                answers.put(None)
        except FAULTS as fault:
            answers.put(str(fault) or type(fault).__name__)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=REACH_SECONDS)
    except queue.Empty:
        return f"no answer within {REACH_SECONDS:g} seconds"


def receive(url: str, file: IO[bytes], *, reporter: Reporter) -> None:
    """Write what lies at `url` to a file; `reporter` shows how far it is.

    Raises:
        OSError, ValueError, http.client.HTTPException: it cannot be had, or not all of it.
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


ATTEMPTS = 2  # to download what arrives damaged
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_CHOICES = ("imagenet", "random")


class Weights(NamedTuple):
    """A file of weights, or None for weights that a model has already; and a phrase for reports."""

    file: Path | None
    provenance: str


def choose_weights(weights: str | Path, seed: int) -> Weights | None:
    """Random weights or a file, as asked for; None for "imagenet".

    Raises:
        UsageError: another word, no such file, or a file that holds no Keras weights.
        ModelRefused: it points at other files, or holds what are no finite numbers.
        EnvironmentFault: the file cannot be read.
    """
    if weights == "imagenet":
        return None
    if weights == "random":
        return Weights(None, f"random (seed {seed})")
    word = str(weights)
    if not isinstance(weights, Path) and not {".", "/", "\\"} & set(word) and not Path(word).exists():
        raise UsageError(
            f'weights: expected "imagenet", "random" or the path of a file.{nearest(word, _CHOICES)} '
            f"Received: {weights}."
        )
    path = Path(weights)
    digest = sha256(path, "weights")
    _check_format(path)
    _look_through(path.resolve(), digest)
    return Weights(path, f"file {path.name} sha256 {digest}")


def draw_weights(model: keras.Model, seed: int) -> None:
    """Give every kernel of a fresh model random weights, the same on every backend.

    They are uniform with the variance of Glorot and Bengio (2010); vectors keep what their layers begin with.

    Args:
        model: changed in place.
        seed: of the weights.
    """
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        for kernel in layer._trainable_variables:
            if len(kernel.shape) > 1:
                *places, inputs, outputs = kernel.shape
                limit = math.sqrt(6 / (math.prod(places) * (inputs + outputs)))
                kernel.assign(random.uniform(-limit, limit, kernel.shape).astype(np.float32))
    settle_variables(model)


def find_weights(entry: Entry, weights: str | Path, *, size: int, seed: int, reporter: Reporter) -> Weights:
    """The weights asked for, on this machine by the time it returns; imports no Keras if they are there.

    Raises:
        UsageError, EnvironmentFault: as `choose_weights` and `published_weights`.
    """
    return choose_weights(weights, seed) or published_weights(entry, size, reporter=reporter)


def published_weights(entry: Entry, size: int, *, reporter: Reporter) -> Weights:
    """The ImageNet weights of a backbone for images of `size` pixels a side, downloaded where necessary.

    Raises:
        EnvironmentFault: they are not on this machine and cannot be had, or are damaged.
    """
    path = weights_on_disk(entry, size) or _download(entry, size, reporter)
    # Keras would download over a file that it finds changed, and delete it where there is no network.
    if wrong := _not_published(path, entry):
        raise EnvironmentFault(
            f"{path} is damaged or not the published file: {wrong} Delete it to have it downloaded again, "
            "or name it as the file of weights."
        )
    return Weights(path, f"imagenet ({path.name}, sha256 {_digest(path, 'sha256')})")


def _not_published(path: Path, entry: Entry) -> str:
    """What tells a file from the published one, as a sentence; empty where nothing does."""
    algorithm, _, expected = (entry.weights_hash or "").partition(":")
    if expected and _digest(path, algorithm) != expected:
        return f"its {algorithm} is {_digest(path, algorithm)}, expected {expected}."
    try:
        _check_format(path)
    except UsageError as fault:
        return str(fault)
    return ""


def _download(entry: Entry, size: int, reporter: Reporter) -> Path:
    file, url = entry.weights_file_at(size), entry.weights_url_at(size)
    target = keras_cache() / file
    reason = unreachable(url)
    for _ in range(ATTEMPTS if reason is None else 0):
        try:
            _fetch(entry, url, target, reporter)
            return target
        except FAULTS as fault:
            reason = brief(fault)
    raise EnvironmentFault(
        f"The ImageNet weights of {entry.name} are not on this machine and cannot be downloaded: {reason}\n"
        f"  file: {file}\n  from: {url}\n"
        f"Either put that file into {keras_cache()}, or give a file with --weights FILE, "
        "or start without pre-training with --weights random."
    )


def _fetch(entry: Entry, url: str, target: Path, reporter: Reporter) -> None:
    """Put a published file in its place, once it is known to be that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    reporter.info(f"Downloading the ImageNet weights of {entry.name} to {target}.")
    with new_folder(target.parent, ".writing-") as beside:
        with (beside / target.name).open("wb") as file:
            receive(url, file, reporter=reporter)
        if wrong := _not_published(beside / target.name, entry):
            raise OSError(f"what the server sent is not the published file: {wrong}")
        (beside / target.name).replace(target)


def _check_format(path: Path) -> None:
    """A file of weights must be what its name says: Keras picks its reader by the ending alone."""
    with path.open("rb") as stream:
        if stream.read(len(HDF5_MAGIC)) != HDF5_MAGIC:
            raise UsageError(
                f"weights: expected an HDF5 file of Keras weights. Received: {path}, which is none."
            )
    try:
        with h5py.File(path, "r") as file:
            old = "model_weights" in file or any(key.startswith("layer_names") for key in file.attrs)
    except OSError as fault:
        raise UsageError(f"weights: {path} is damaged: {brief(fault)}") from fault
    ending = path.name.endswith(".weights.h5")
    if old == ending or (old and path.suffix not in (".h5", ".hdf5")):
        wanted = ".h5" if old else ".weights.h5"
        raise UsageError(
            f"weights: the name of {path} must end in {wanted}, since it was written by "
            f"{'Keras 2' if old else 'Keras 3'}; Keras goes by the name. Rename it."
        )


def load_weights(model: keras.Model, path: Path, name: str) -> None:
    """Change `model`: all its weights come from the file, or UsageError, which calls the model `name`."""
    expected = f"{len(model.weights)} arrays, {model.count_params():,} numbers"
    try:
        with warnings.catch_warnings():
            # Keras warns of containers that it meets a second time; what is missing, the count below shows.
            warnings.simplefilter("ignore", UserWarning)
            model.load_weights(path)
        # Keras passes over layers of the file that the model lacks, and over nested ones that the file lacks.
        if path.name.endswith(".weights.h5") and (held := len(_shapes(path))) != len(model.weights):
            raise ValueError(f"the model has {len(model.weights)} arrays, the file {held}.")
    except Exception as fault:  # whatever Keras stumbles over, the file does not fit
        raise UsageError(
            f"weights: {path} holds weights of another architecture. Expected: {name} "
            f"({expected}). Keras says: {brief(fault)}"
        ) from fault


def _shapes(path: Path) -> list[tuple[int, ...]]:
    """The shapes of a file's weights; those of an optimizer and of random numbers are none."""
    found: dict[str, tuple[int, ...]] = {}

    def look(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item.shape

    with h5py.File(path, "r") as file:
        file.visititems(look)
    return [
        shape
        for name, shape in found.items()
        if not name.startswith("optimizer") and "/seed_generator/" not in name
    ]


def classes_of(path: Path, model: keras.Model) -> int | None:
    """How many classes the classifier has that a file of weights holds beyond the model's own arrays.

    The classifier's layers feed one another, so its classes are the one length of a bias that no kernel of
    its takes in.

    Args:
        path: an HDF5 file of weights.
        model: the network without a classifier.

    Returns:
        The number of classes; None where the file has no more than the model, or what is more is no
        classifier.
    """
    more = Counter(_shapes(path)) - Counter(tuple(weight.shape) for weight in model.weights)
    taken_in = {shape[-2] for shape in more if len(shape) > 1}
    ends = {shape[0] for shape in more if len(shape) == 1} - taken_in
    return ends.pop() if len(ends) == 1 else None


def complete_scaling(model: keras.Model) -> None:
    """Change the Normalization of an EfficientNetV1 in place, where it holds deviations as variances.

    The published files hold ImageNet's standard deviations d where the layer wants variances, so it divides
    by sqrt(d). Keras mends that by a further layer that divides by sqrt(d) again, but only where it is told
    the word "imagenet", not the file's path. Here d squared is put where it belongs; files whose variances
    are anything else are taken as they are. Source: the comment in keras/src/applications/efficientnet.py.
    """
    deviation = np.array([0.229, 0.224, 0.225], "float32")
    import keras

    layer = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
    if np.allclose(keras.ops.convert_to_numpy(layer.adapt_variance), deviation, rtol=1e-3):
        layer.adapt_variance.assign(deviation**2)
        layer.finalize_state()


def _digest(path: Path, algorithm: str) -> str:
    try:
        state = path.stat()
        return _hashed(path.resolve(), algorithm, (state.st_size, state.st_mtime_ns))
    except OSError as fault:
        raise EnvironmentFault(f"{path} cannot be read: {fault}") from fault


@cache  # a run looks at its file of weights before the backend is imported, and again when it loads it
def _hashed(path: Path, algorithm: str, state: tuple[int, int]) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


@cache  # as above: of a file whose content is known, the arrays are
def _look_through(path: Path, digest: str) -> None:
    read_arrays(path)


def sha256(path: Path, what: str) -> str:
    """SHA-256 of a file, in hex; UsageError, which begins with `what`, where there is none."""
    if not path.is_file():
        raise UsageError(f"{what}: no such file: {path}.")
    return _digest(path, "sha256")
