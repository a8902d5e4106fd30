"""Batches: every image once, the same for the same seed, and the right views."""

import numpy as np
import pytest

from regraft.data.batches import Batches
from regraft.data.catalog import Sample

SIZE = 12
COUNT = 23
STORE = {
    f"{number:032x}": np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    for number in range(COUNT)
}
SAMPLES = [Sample(f"{content}.png", number % 5, content) for number, content in enumerate(STORE)]


TARGETS = np.eye(5, dtype=np.float32)[np.arange(COUNT) % 5]


def read(samples):
    return (np.stack([STORE[sample.digest] for sample in samples]),)


def batches(seed=0, samples=SAMPLES, batch_size=4, **changes):
    return Batches(samples, TARGETS, read, batch_size=batch_size, seed=seed, **changes)


def numbers(stream):
    """The images that a stream yields, in order; checks the targets too."""
    known = {image.tobytes(): number for number, image in enumerate(STORE.values())}
    found = []
    for (pixels,), targets, weights in stream:
        these = [known[image.tobytes()] for image in pixels]
        assert targets.argmax(1).tolist() == [number % 5 for number in these]
        assert weights.tolist() == [[1.0]] * len(these)
        found += these
    return found


def test_in_order_is_every_image_as_it_is():
    assert numbers(batches().iter_in_order()) == list(range(COUNT))


def test_an_epoch_is_every_image_once_in_another_order():
    order = numbers(batches().iter_shuffled(0))
    assert sorted(order) == list(range(COUNT))
    assert order != sorted(order)


def test_seed_and_epoch_decide_the_order():
    assert numbers(batches(1).iter_shuffled(2)) == numbers(batches(1).iter_shuffled(2))
    orders = [numbers(batches(seed).iter_shuffled(epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_augmentation_is_given_seed_epoch_and_batch_and_only_in_training():
    keys = []

    def augment(batch, key):
        keys.append(key)
        return batch._replace(inputs=(batch.inputs[0] * 0,))

    made = batches(3, augment=augment)
    assert all(not batch.inputs[0].any() for batch in made.iter_shuffled(2))
    assert keys == [[3, 2, number] for number in range(len(made))]
    assert numbers(made.iter_in_order()) == list(range(COUNT))


def test_what_is_drawn_is_read_in_the_place_of_its_sample_and_only_in_training():
    keys = []

    def draw(samples, key):
        keys.append(key)
        return [SAMPLES[(sample.target + 5) % COUNT] for sample in samples]  # of the same class

    made = batches(3, draw=draw)
    assert set(numbers(made.iter_shuffled(2))) == {5, 6, 7, 8, 9}
    assert keys == [[3, 2, number] for number in range(len(made))]
    assert numbers(made.iter_in_order()) == list(range(COUNT))


def test_weights_go_with_their_samples():
    weights = np.arange(COUNT, dtype=np.float32)[:, None]
    made = Batches(SAMPLES, TARGETS, read, batch_size=4, weights=weights)
    for batch in made.iter_shuffled(0):
        known = [int(weight) % 5 for weight in batch.weights[:, 0]]
        assert batch.targets.argmax(1).tolist() == known


@pytest.mark.parametrize(("batch_size", "expected"), [(4, 6), (23, 1), (100, 1), (1, 23)])
def test_the_length_is_the_number_of_batches(batch_size, expected):
    made = batches(batch_size=batch_size)
    assert len(made) == len(list(made.iter_in_order())) == expected


def test_no_samples_are_no_batches():
    assert len(batches(samples=[])) == 0
    assert list(batches(samples=[]).iter_in_order()) == []


def test_a_stream_may_be_left_early():
    stream = batches().iter_shuffled(0)
    next(stream)
    stream.close()


def test_a_failure_to_read_reaches_the_reader():
    def fail(digests):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(Batches(SAMPLES, TARGETS, fail, batch_size=4).iter_in_order())
