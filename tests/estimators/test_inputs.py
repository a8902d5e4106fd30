"""The X of scikit-learn: which images are accepted, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from regraft.data.image_writer import ImageWriter
from regraft.data.images.decode import digest
from regraft.errors import DataError
from regraft.estimators.inputs import make_catalog


@pytest.fixture
def writer(tmp_path: Path) -> ImageWriter:
    return ImageWriter(tmp_path / "spool")


def test_files_are_used_where_they_are_and_images_in_memory_become_files(
    writer: ImageWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    catalog = make_catalog(["photo.png", pixels, Image.open("photo.png"), Path("photo.png")], writer)
    files = [catalog.root / sample.path for sample in catalog.samples]
    assert [file.suffix for file in files] == [".png", ".bmp", ".bmp", ".png"]
    assert files[0] == tmp_path / "photo.png"
    for file, sample in zip(files, catalog.samples, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), pixels)
        assert digest(file.read_bytes()) == sample.digest


def test_rows_keep_their_order_and_repetitions(writer: ImageWriter) -> None:
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.full((1, 4, 4, 3), 50, np.uint8)
    digests = [sample.digest for sample in make_catalog(pixels[[2, 0, 2, 3, 0]], writer).samples]
    assert digests[0] == digests[2] != digests[1] == digests[4]
    assert len(set(digests)) == 3


def test_up_to_five_bad_images_are_named(writer: ImageWriter) -> None:
    images = [np.full((4, 4, 3), np.nan)] * 7
    with pytest.raises(DataError, match=r"7 images .* image 4: not_finite, [^;]*; \.\.\."):
        make_catalog(images, writer)


def test_sparse_matrices_are_refused_in_the_words_of_scikit_learn(writer: ImageWriter) -> None:
    with pytest.raises(TypeError, match=r"[Ss]parse data was passed"):
        make_catalog(sparse.csr_array(np.eye(8)), writer)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((4, 64)), r"shape \(4, 64\). Reshape your data"),
        (np.zeros((4, 8, 8, 2)), r"shape \(height, width, 3\)"),
        (np.full((4, 8, 8, 3), 0.5), "pass scale=255"),
        (np.full((4, 8, 8, 3), 300.0), r"Expected pixels in 0\.\.255"),
        (np.full((4, 8, 8, 3), np.nan), "NaN"),
        (np.zeros((0, 8, 8, 3)), "minimum of 1 is required"),
        ([], "minimum of 1 is required"),
        ("photos", "Expected images"),
        (np.array([["a.png", "b.png"]] * 3), "values for each of 3 rows"),
    ],
)  # fmt: skip
def test_anything_but_a_list_of_images_is_refused(writer: ImageWriter, images: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_catalog(images, writer)
