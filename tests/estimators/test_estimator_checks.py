"""scikit-learn's own checks of estimators, with rows of numbers laid out as images.

The checks pass tables (n, features). The tags of our estimators exclude tables, so scikit-learn would skip
all but one check. Here a subclass turns each row into an image one pixel high, its values squeezed into
0..255, and leaves everything else to the estimator. Anything but a table of numbers is passed on unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

from regraft import ImageClassifier, ImageEmbedder, ImageRegressor

pytestmark = pytest.mark.slow

SIZE = 8

# Checks of scikit-learn that images cannot pass, and why.
NOT_FOR_IMAGES = {
    "check_dtype_object": "a column of objects holds file names or images, not numbers",
}
NOT_FOR_CLASSIFIER = {
    **NOT_FOR_IMAGES,
    "check_class_weight_classifiers": "class_weight is None or balanced; no weights of single classes",
    "check_sample_weight_equivalence_on_dense_data": (
        "the penalty is cross-validated, on other folds where rows are repeated"
    ),
}


def as_images(rows: Any) -> Any:
    """Turn numbers (n, d) into pixels (n, 1, d); NaN and infinity stay."""
    if sparse.issparse(rows):
        return rows
    table = np.asarray(rows)
    if table.ndim != 2 or not table.size or table.dtype.kind not in "iuf":
        return rows
    values = table.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        squeezed = 255 / (1 + np.exp(-values / 4))
    return np.where(np.isfinite(values), squeezed, values)[:, None, :, None]


class Tabular:
    """A mixin that makes an estimator take tables and count their columns, which images do not have."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array = True
        return tags

    def fit(self, X: Any, y: Any = None, **options: Any) -> Any:
        vars(self).pop("n_features_in_", None)
        super().fit(X, y, **options)  # type: ignore[misc]
        self.n_features_in_ = np.asarray(X).shape[1]
        return self

    def _catalog(self, context: Any, images: Any) -> Any:
        columns, expected = np.asarray(images).shape[1:], vars(self).get("n_features_in_")
        if expected and columns and columns[0] != expected:
            name = type(self).__name__
            raise ValueError(
                f"X has {columns[0]} features, but {name} is expecting {expected} features as input"
            )
        return super()._catalog(context, as_images(images))  # type: ignore[misc]


class TabularEmbedder(Tabular, ImageEmbedder):
    pass


class TabularClassifier(Tabular, ImageClassifier):
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        return super().fit(X, y, sample_weight=sample_weight)


class TabularRegressor(Tabular, ImageRegressor):
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        return super().fit(X, y, sample_weight=sample_weight)


@pytest.fixture(scope="module")
def pixels_as_they_are(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a backbone whose features are the pixels."""
    import keras

    path = tmp_path_factory.mktemp("network") / "pixels.keras"
    image = keras.Input((SIZE, SIZE, 3))
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(image))
    keras.Model(image, flat, name="pixels_as_they_are").save(path)
    return path


@pytest.mark.parametrize("kind", [ImageEmbedder, ImageClassifier, ImageRegressor])
def test_tags_say_that_tables_are_not_taken(kind: type) -> None:
    with pytest.warns(SkipTestWarning, match="Can't test estimator"):
        checks = list(estimator_checks_generator(kind()))
    assert [check.func.__name__ for _, check in checks] == ["check_estimator_cloneable"]


@pytest.mark.parametrize(
    ("kind", "skipped"),
    [
        (TabularEmbedder, NOT_FOR_IMAGES),
        pytest.param(TabularClassifier, NOT_FOR_CLASSIFIER, marks=pytest.mark.soak),
        pytest.param(TabularRegressor, NOT_FOR_IMAGES, marks=pytest.mark.soak),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn(
    kind: type, skipped: dict[str, str], pixels_as_they_are: Path, tmp_path: Path, in_this_process: None
) -> None:
    estimator = kind(str(pixels_as_they_are), store=tmp_path)
    results = check_estimator(estimator, expected_failed_checks=skipped, on_skip=None, on_fail=None)
    failed = {check["check_name"]: check["exception"] for check in results if check["status"] == "failed"}
    assert not failed
    assert {check["check_name"] for check in results if check["status"] == "xfail"} == set(skipped)
    assert sum(check["status"] == "passed" for check in results) >= 40
