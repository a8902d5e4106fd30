"""scikit-learn's own checks of estimators, on rows of numbers laid out as images.

The checks feed tables (n, features). Our estimators say by their tags that they take none, so scikit-learn
would skip all but one check. Here a subclass lays each row out as an image of one line, its values squeezed
into 0..255, and leaves everything else to the estimator; what is not a table of numbers goes through as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import estimator_checks_generator

from regraft import ImageClassifier, ImageEmbedder, ImageRegressor

SIZE = 8
ANY_SIZE = "an image has no columns: images of every size are taken"
NOT_FITTED = "an embedder learns nothing"
SKIPPED = {
    "check_n_features_in": ANY_SIZE,
    "check_n_features_in_after_fitting": ANY_SIZE,
}


def as_images(rows: Any) -> Any:
    """(n, d) numbers -> (n, 1, d) pixels; NaN and infinity stay what they are."""
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
    """The estimator that it is mixed into, on tables."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array = True
        return tags

    def _catalog(self, images: Any) -> Any:
        return super()._catalog(as_images(images))  # type: ignore[misc]


class TabularEmbedder(Tabular, ImageEmbedder):
    pass


class TabularClassifier(Tabular, ImageClassifier):
    pass


class TabularRegressor(Tabular, ImageRegressor):
    pass


@pytest.fixture(scope="module")
def pixels_as_they_are(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that gives the pixels themselves."""
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


def run_checks(estimator: Any, skipped: dict[str, str]) -> dict[str, str]:
    """The checks that fail, each with what it says."""
    failed = {}
    passed = 0
    for each, check in estimator_checks_generator(estimator):
        name = check.func.__name__
        try:
            check(each)
            passed += 1
            if name in skipped:
                failed[name] = "passes, and is listed as one that cannot"
        except pytest.skip.Exception:
            pass
        except Exception as error:
            import traceback
            tb = traceback.format_exc()
            if name not in skipped:
                failed[name] = tb
    print(passed, "passed")
    return failed
