"""`ImageEmbedder`: the backbone's features as a transformer, computed once per image."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import small_network
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from regraft import DataError, ImageEmbedder, UsageError
from regraft.data.images.decode import decode

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """Decode without child processes, which have tests of their own and are slow to start."""


@pytest.fixture
def embedder(network_file: Path, tmp_path: Path) -> ImageEmbedder:
    return ImageEmbedder(str(network_file), precision="f32", store=tmp_path / "store")


@pytest.fixture
def files(photos: Path) -> list[str]:
    return [str(path) for path in sorted(photos.rglob("*.png"))]


def pixels(files: list[str]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in files])


def test_features_are_the_pooled_answer_of_keras(embedder: ImageEmbedder, files: list[str]) -> None:
    decoded = np.stack([decode(Path(path).read_bytes(), 32).pixels for path in files]).astype("float32")
    maps = small_network().predict(decoded, verbose=0)
    features = embedder.fit_transform(files)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, maps.mean(axis=(1, 2)), rtol=6e-4, atol=1e-4)
    highest = clone(embedder).set_params(pooling="max").fit(files).transform(files)
    np.testing.assert_allclose(highest, maps.max(axis=(1, 2)), rtol=6e-4, atol=1e-4)


def test_arrays_lists_and_files_of_the_same_pixels_have_the_same_features(
    embedder: ImageEmbedder, files: list[str]
) -> None:
    from_files = embedder.transform(files)
    array = pixels(files)
    column = np.array(files, dtype=object)[:, None]
    forms = (array, array.astype("float64"), list(array), [Image.open(path) for path in files], column)
    for images in forms:
        np.testing.assert_array_equal(embedder.transform(images), from_files)
    scaled = clone(embedder).set_params(scale=255.0)
    np.testing.assert_array_equal(scaled.transform(array / 255), from_files)


def test_grey_images_have_three_equal_channels(embedder: ImageEmbedder) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype("uint8")
    features = embedder.transform(grey)
    np.testing.assert_array_equal(embedder.transform(grey[..., None]), features)
    np.testing.assert_array_equal(embedder.transform(np.repeat(grey[..., None], 3, axis=3)), features)


def test_the_backbone_sees_each_image_once_over_all_folds_and_points_of_a_grid(
    embedder: ImageEmbedder, files: list[str], seen: list[int]
) -> None:
    labels = [Path(path).parent.name for path in files]
    model = make_pipeline(embedder, StandardScaler(), SVC())
    assert cross_val_score(model, files, labels, cv=5).mean() > 0.9
    grid = GridSearchCV(model, {"svc__C": [0.1, 1, 10]}, cv=3).fit(files, labels)
    assert grid.score(files, labels) > 0.9
    assert sum(seen) == len(files)


def test_processes_side_by_side_give_the_same(embedder: ImageEmbedder, files: list[str]) -> None:
    labels = [Path(path).parent.name for path in files]
    model = make_pipeline(embedder, SVC())
    alone = cross_val_score(model, files, labels, cv=2)
    np.testing.assert_array_equal(cross_val_score(model, files, labels, cv=2, n_jobs=2), alone)


def test_a_changed_backbone_file_is_another_backbone(files: list[str], tmp_path: Path) -> None:
    path = tmp_path / "own.keras"
    network = small_network()
    network.save(path)
    embedder = ImageEmbedder(str(path), store=tmp_path / "store")
    before = embedder.transform(files)
    network.get_layer("top_conv").set_weights([w + 1 for w in network.get_layer("top_conv").get_weights()])
    network.save(path)
    assert np.abs(embedder.transform(files) - before).min() > 0.1


def test_named_columns_come_out_as_a_data_frame(embedder: ImageEmbedder, files: list[str]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"photo": files}, index=range(100, 100 + len(files)))
    features = embedder.set_output(transform="pandas").fit(frame).transform(frame)
    assert list(features.columns[:2]) == ["imageembedder0", "imageembedder1"]
    assert list(features.index) == list(frame.index)
    np.testing.assert_array_equal(embedder.transform(frame["photo"]).to_numpy(), features.to_numpy())


def test_a_fitted_embedder_is_pickled_by_its_arguments(embedder: ImageEmbedder, files: list[str]) -> None:
    data = pickle.dumps(embedder.fit(files))
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).transform(files), embedder.transform(files))


def test_nothing_is_printed_unless_verbose(
    embedder: ImageEmbedder, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    embedder.fit_transform(files)
    assert capsys.readouterr().err == ""
    clone(embedder).set_params(verbose=True).transform(files)
    assert "in the store" in capsys.readouterr().err


def test_an_image_that_cannot_be_used_is_named(
    embedder: ImageEmbedder, files: list[str], photos: Path
) -> None:
    (photos / "text.jpg").write_text("no image")
    (photos / "half.png").write_bytes(Path(files[0]).read_bytes()[:300])
    with pytest.raises(DataError, match=r"text\.jpg: not_an_image"):
        embedder.transform([*files, photos / "text.jpg"])
    with pytest.raises(DataError, match=r"half\.png: truncated"):
        embedder.transform([*files, photos / "half.png"])
    with pytest.raises(DataError, match=r"1 image .*nowhere\.png: unreadable"):
        embedder.fit([photos / "nowhere.png"])


def test_settings_are_checked_in_fit(embedder: ImageEmbedder) -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(UsageError, match="pooling: expected avg, max, both"):
        clone(embedder).set_params(pooling="gem").fit(images)
    with pytest.raises(UsageError, match=r"resnet5[01]"):
        ImageEmbedder("resnet5").fit(images)
