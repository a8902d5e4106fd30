"""Views: named by content, and the same for the same image in any order of computation."""

import keras
import numpy as np
import pytest

from regraft.data.augmentation import CHANGES, View
from regraft.errors import UsageError

IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)


def test_view_0_is_the_image_under_the_key_it_always_had():
    assert View().apply(IMAGE, "ab") is IMAGE
    assert View(0, ("flip",), 5).key == "view 0"


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_view_depends_on_its_number_names_seed_and_the_digest_only(name):
    first = View(1, (name,), 2).apply(IMAGE, "ab")
    assert first.dtype == np.uint8
    assert first.shape == IMAGE.shape
    View(3, (name,), 2).apply(IMAGE[::-1], "cd")
    keras.utils.set_random_seed(7)
    np.testing.assert_array_equal(View(1, (name,), 2).apply(IMAGE, "ab"), first)
    others = [
        [View(k, (name,), s).apply(IMAGE, d).tobytes() for k in range(1, 5)] for s in (2, 3) for d in "xyz"
    ]
    assert len({view for row in others for view in row}) > 1


def test_the_key_says_all_that_a_view_depends_on():
    key = View(1, ("crop", "flip"), 2).key
    assert keras.__version__ in key
    assert keras.backend.backend() in key
    assert key == View(1, ("flip", "crop"), 2).key
    assert (
        len({key, View(2, ("flip", "crop"), 2).key, View(1, ("flip",), 2).key, View(1, ("flip", "crop")).key})
        == 4
    )


def test_views_that_are_none_are_refused():
    with pytest.raises(UsageError, match=r"views: expected augmentations.*view 1"):
        View(1)
    for name in ("mixup", "cutmix"):
        with pytest.raises(UsageError, match="It needs targets"):
            View(1, (name,))
