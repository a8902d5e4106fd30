"""Batches: every image once, the same for the same seed, views that are what they say."""

import numpy as np
import pytest

from regraft.data.batches import Batches, augmented
from regraft.data.catalog import Sample

SIZE = 12
COUNT = 23
STORE = {
    f"{number:032x}": np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    for number in range(COUNT)
}
SAMPLES = [Sample(f"{content}.png", number % 5, content) for number, content in enumerate(STORE)]


def read(digests):
    return np.stack([STORE[digest] for digest in digests])


def batches(seed=0, samples=SAMPLES, batch_size=4):
    return Batches(samples, read, batch_size=batch_size, seed=seed)


def numbers(stream):
    """Which images a stream gave, in order; the labels are checked on the way."""
    known = {image.tobytes(): number for number, image in enumerate(STORE.values())}
    found = []
    for pixels, labels in stream:
        assert pixels.dtype == np.float32
        these = [known[image.astype(np.uint8).tobytes()] for image in pixels]
        assert labels.tolist() == [SAMPLES[number].label for number in these]
        found += these
    return found


def stacked(stream):
    return np.concatenate([batch.pixels for batch in stream])


def test_in_order_is_every_image_as_it_is():
    assert numbers(batches().in_order()) == list(range(COUNT))


def test_an_epoch_is_every_image_once_in_another_order():
    order = numbers(batches().shuffled(0))
    assert sorted(order) == list(range(COUNT))
    assert order != sorted(order)


def test_seed_and_epoch_decide_the_order():
    assert numbers(batches(1).shuffled(2)) == numbers(batches(1).shuffled(2))
    orders = [numbers(batches(seed).shuffled(epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_seed_epoch_and_image_decide_the_view():
    views = ("flip", "crop")
    np.testing.assert_array_equal(
        stacked(batches(3).shuffled(1, views)), stacked(batches(3).shuffled(1, views))
    )
    one = batches(3, SAMPLES[:1])
    seen = {stacked(one.shuffled(epoch, views)).tobytes() for epoch in range(8)}
    assert len(seen) == 8


def test_the_view_does_not_depend_on_the_size_of_a_batch():
    views = ("flip", "crop")
    small, large = (stacked(batches(batch_size=size).shuffled(0, views)) for size in (3, 23))
    np.testing.assert_array_equal(small, large)


@pytest.mark.parametrize(("batch_size", "expected"), [(4, 6), (23, 1), (100, 1), (1, 23)])
def test_the_length_is_the_number_of_batches(batch_size, expected):
    made = batches(batch_size=batch_size)
    assert len(made) == len(list(made.in_order())) == expected


def test_no_samples_are_no_batches():
    assert len(batches(samples=[])) == 0
    assert list(batches(samples=[]).in_order()) == []


def test_a_stream_may_be_left_early():
    stream = batches().shuffled(0)
    next(stream)
    stream.close()


def test_a_failure_to_read_reaches_the_reader():
    def fail(digests):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(Batches(SAMPLES, fail, batch_size=4).in_order())


def test_a_flip_is_the_exact_mirror_half_of_the_time():
    image = next(iter(STORE.values()))
    views = [augmented(image, ("flip",), np.random.default_rng(seed)) for seed in range(200)]
    mirrored = sum(np.array_equal(view, image[:, ::-1]) for view in views)
    kept = sum(np.array_equal(view, image) for view in views)
    assert mirrored + kept == 200
    assert 70 < mirrored < 130


def test_a_crop_is_a_part_enlarged_to_the_same_size():
    y, x = np.mgrid[0:64, 0:64]
    ramp = np.stack([x * 4, y * 4, 0 * x], axis=-1).astype(np.uint8)
    spans = []
    for seed in range(200):
        view = augmented(ramp, ("crop",), np.random.default_rng(seed))
        assert view.shape == ramp.shape
        assert view.dtype == np.uint8
        assert (np.diff(view[..., 0].astype(int), axis=1) >= 0).all()  # never mirrored
        spans.append(np.ptp(view[..., 0].astype(int)) * np.ptp(view[..., 1].astype(int)) / 252**2)
    assert 0.5 < min(spans) < 0.7
    assert 0.9 < max(spans) <= 1


def test_no_augmentation_is_the_image_itself():
    image = next(iter(STORE.values()))
    np.testing.assert_array_equal(augmented(image, (), np.random.default_rng(0)), image)
