"""Small coloured images, a small backbone, and the real material where it is present."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Of several workers on one processor each would spin while it waits for its threads; children inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

from regraft.system.console import SilentReporter

SHARED = Path(__file__).resolve().parents[2] / "shared"
COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (200, 40, 30)}


class Recorder(SilentReporter):
    """Keep messages in the order in which they come.

    Attributes:
        lines: all of them.
        warnings: those that the user should act on.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)
        self.warnings.append(text)


@pytest.fixture(autouse=True)
def own_store(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No test reads or writes the store in the user's cache."""
    if "shared_store" not in request.fixturenames:
        monkeypatch.setenv("REGRAFT_HOME", str(tmp_path_factory.getbasetemp() / "store"))


@pytest.fixture(autouse=True, scope="session")
def f32_unless_stated() -> Iterator[None]:
    """Let `--precision auto` mean f32 on every processor; tests of the choice itself say what there is."""
    from regraft.features import precision

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "is_fast_in_bf16", lambda engine: False)
        yield


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One store for a module: what is frozen is computed once, here too."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("REGRAFT_HOME", str(home))
        yield home


@contextmanager
def run_eagerly() -> Iterator[None]:
    """Let TensorFlow run steps without tracing them first, which takes longer than a few steps do."""
    import tensorflow

    tensorflow.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tensorflow.config.run_functions_eagerly(False)


@contextmanager
def full_disk() -> Iterator[None]:
    """Let the disk refuse what is written so that it is safe, as a full one does."""

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        yield


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse the rest of a file after so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder in place of the system's for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store five images at a time, so that a dozen of them are several files."""
    monkeypatch.setattr("regraft.features.store.SHARD", 5)


@pytest.fixture
def decoded_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were passed to decoding, in order."""
    from regraft.data.images.decoder_pool import DecodingPool

    names: list[str] = []

    def open_pool(jobs, size, **options):
        names.extend(job.path.name for job in jobs)
        return DecodingPool(jobs, size, workers=1, **options)

    for module in ("extract", "image_facts"):
        monkeypatch.setattr(f"regraft.features.{module}.DecodingPool", open_pool)
    return names


@pytest.fixture
def eager() -> Iterator[None]:
    with run_eagerly():
        yield


def write_photos(root: Path, *, classes: int = 3, each: int = 10, size: int = 40, seed: int = 0) -> Path:
    """Class folders of noisy images in one colour a class: easy to learn, every image different."""
    rng = np.random.default_rng(seed)
    for name, colour in list(COLOURS.items())[:classes]:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            noise = rng.normal(0, 40, (size, size, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:03}.png")
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 3 classes with 10 images each."""
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone under 50,000 parameters with batch normalisation, dropout and a residual connection."""
    path = tmp_path_factory.mktemp("network") / "small.keras"
    small_network().save(path)
    return path


def small_network(size: int = 32, blocks: int = 2):
    import keras

    keras.utils.set_random_seed(1)
    pixels = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")(pixels)
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = keras.layers.BatchNormalization(name="stem_bn")(x)
    x = keras.layers.ReLU(name="stem_relu")(x)
    for number in range(1, blocks + 1):
        y = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"block{number}_conv")(x)
        y = keras.layers.BatchNormalization(name=f"block{number}_bn")(y)
        y = keras.layers.ReLU(name=f"block{number}_relu")(y)
        y = keras.layers.Dropout(0.3, name=f"block{number}_drop")(y)
        x = keras.layers.Add(name=f"block{number}_add")([x, y])
    x = keras.layers.Conv2D(16, 1, name="top_conv")(x)
    return keras.Model(pixels, x, name="small_network")


@pytest.fixture(scope="session")
def clothing() -> Path:
    """Real photographs of clothes, 10 classes, in train and test."""
    return _shared("images/clothing")


@pytest.fixture(scope="session")
def mobilenet_weights() -> Path:
    """Real ImageNet weights of MobileNetV2 at 224 px."""
    return _shared("weights/mobilenet_v2_imagenet_224_notop.weights.h5")


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Unusual, broken and rotated image files."""
    return _shared("corpora")


@pytest.fixture(scope="session")
def shared_file() -> Callable[[str], Path]:
    """Find a file of the real material, by its path; skip the test where it is absent."""
    return _shared


def _shared(path: str) -> Path:
    if not (SHARED / path).exists():
        pytest.skip(f"../shared/{path} is not here")
    return SHARED / path


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Makes a folder one that nobody can write to: a mount for root, whom permissions do not stop."""
    mounted: list[Path] = []

    def make(folder: Path) -> Path:
        if os.geteuid():
            for path in (folder, *folder.rglob("*")):
                path.chmod(path.stat().st_mode & ~0o222)
            return folder
        for options in (["--bind", str(folder)], ["-o", "remount,ro,bind"]):
            if subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False).returncode:
                pytest.skip("nothing can be mounted here")
            mounted.append(folder)
        return folder

    yield make
    for folder in set(mounted):
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def make_photos(tmp_path: Path) -> Callable[..., Path]:
    """`write_photos` into a named folder of the test's own."""

    def make(name: str = "photos", **options: int) -> Path:  # a test helper, not a public signature
        return write_photos(tmp_path / name, **options)

    return make


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding without a child process, for tests of other things."""
    from regraft.data.images import decoder_pool as workers
    from regraft.data.images import decoder_process as child
    from regraft.data.images.rejections import Rejection

    class InThisProcess(child.DecoderProcess):
        def decode(self, path: Path, expected: str, size: int, depth: int = 16):
            try:
                return child._decode_file(str(path), size, expected, depth)
            except Rejection as refusal:
                return refusal

    monkeypatch.setattr(workers, "DecoderProcess", InThisProcess)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images in each batch that an engine ran, without the black ones that measure its pace."""
    from regraft.features import engine, keras_engine

    counts: list[int] = []

    class CountingEngine(keras_engine.KerasEngine):
        def run(self, batches):
            for batch in batches:
                counts.append(int(batch.any(axis=(1, 2, 3)).sum()))
                yield from super().run([batch])

    monkeypatch.setattr(engine, "make_engine", lambda network, cache, **_: CountingEngine(network.model))
    monkeypatch.setattr(keras_engine, "engine_name", lambda _="f32": keras_engine.keras_engine_name("f32"))
    return counts
