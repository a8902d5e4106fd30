"""Which images validate: decided by their content alone, and stable when the collection grows."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from regraft.data.catalog import Catalog, Sample
from regraft.data.split import split


def catalog(*sizes, part="", names=None, first=0):
    """A catalog of as many images of each class as asked for, each with a content of its own."""
    samples = []
    for label, size in enumerate(sizes):
        for number in range(first, first + size):
            content = hashlib.md5(f"{label}/{number}".encode()).hexdigest()
            samples.append(Sample(f"{label}/{number:05}.png", label, content, part))
    return Catalog(Path(), tuple(names or [f"class{label}" for label in range(len(sizes))]), tuple(samples))


def parts(cut):
    return {sample.digest: sample.part for sample in cut.samples}


def validating(cut):
    return {sample.digest for sample in cut.part("validation")}


def test_each_class_gives_its_share():
    cut = split(catalog(3000, 1000), fraction=0.2)
    for label, size in enumerate((3000, 1000)):
        assert abs(cut.counts("validation")[label] / size - 0.2) < 0.04
    assert {sample.part for sample in cut.samples} == {"train", "validation"}


@pytest.mark.parametrize("fraction", [0.05, 0.5])
def test_the_share_is_the_one_asked_for(fraction):
    assert abs(split(catalog(4000), fraction=fraction).counts("validation")[0] / 4000 - fraction) < 0.03


def test_adding_images_moves_none_that_were_there():
    rng = random.Random(0)
    everything = catalog(400, 400)
    for trial in range(60):
        more = tuple(rng.sample(everything.samples, rng.randint(200, 400)))
        few = more[: rng.randint(80, 199)]
        before = split(replace(everything, samples=few), fraction=0.2, seed=trial)
        after = split(replace(everything, samples=more), fraction=0.2, seed=trial)
        assert min(before.counts("train")) >= 10
        assert parts(before).items() <= parts(after).items()


def test_at_most_the_stand_in_of_a_small_class_moves():
    everything = catalog(40).samples
    for seed in range(40):
        before = split(replace(catalog(1), samples=everything[:10]), fraction=0.2, seed=seed)
        after = split(replace(catalog(1), samples=everything), fraction=0.2, seed=seed)
        moved = dict(parts(before).items() - parts(after).items())
        assert set(moved.values()) <= {"validation"}
        assert len(moved) <= 1
        assert not moved or len(validating(before)) == 1


def test_every_class_of_several_images_has_some_on_either_side():
    for seed in range(50):
        cut = split(catalog(2, 3, 4, 5, 6, 7), fraction=0.2, seed=seed)
        assert min(cut.counts("train")) >= 1
        assert min(cut.counts("validation")) >= 1


def test_two_images_are_one_each():
    cut = split(catalog(2, 2), fraction=0.9)
    assert cut.counts("train") == cut.counts("validation") == [1, 1]


def test_a_single_image_is_trained_on_and_that_is_said():
    cut = split(catalog(20, 1, names=["cat", "wolf"]), fraction=0.5)
    assert cut.counts("train")[1] == 1
    assert cut.counts("validation")[1] == 0
    assert cut.notes == ("The class wolf has a single image: it is trained on, and nothing validates it.",)


def test_two_copies_of_one_picture_count_as_one():
    alone = catalog(20, 1)
    copy = replace(alone.samples[-1], path="1/copy.png")
    cut = split(replace(alone, samples=(*alone.samples, copy)), fraction=0.5)
    assert cut.counts("train")[1] == 2
    assert "single image" in cut.notes[0]


def test_copies_fall_on_the_same_side_in_whatever_class_they_lie():
    one = catalog(60, 60)
    copies = tuple(replace(s, path=f"copy/{s.path}", target=1 - s.target) for s in one.samples[::3])
    cut = split(replace(one, samples=one.samples + copies), fraction=0.3)
    sides = {}
    for sample in cut.samples:
        sides.setdefault(sample.digest, set()).add(sample.part)
    assert all(len(side) == 1 for side in sides.values())


def test_order_and_names_do_not_matter():
    one = catalog(50, 50)
    shuffled = [replace(s, path=f"{i}.png") for i, s in enumerate(one.samples)]
    random.Random(1).shuffle(shuffled)
    assert parts(split(replace(one, samples=tuple(shuffled)), fraction=0.2)) == parts(
        split(one, fraction=0.2)
    )


def test_another_seed_is_another_split_and_the_same_seed_the_same():
    one = catalog(100)
    assert validating(split(one, fraction=0.2, seed=1)) == validating(split(one, fraction=0.2, seed=1))
    assert validating(split(one, fraction=0.2, seed=1)) != validating(split(one, fraction=0.2, seed=2))


def test_validation_cut_by_the_user_is_kept():
    given = catalog(20, part="train").samples + catalog(5, part="validation", first=20).samples
    one = replace(catalog(1), samples=given)
    assert split(one, fraction=0.5) == one


def test_test_images_are_never_touched():
    given = catalog(50, part="train").samples + catalog(50, part="test", first=50).samples
    cut = split(replace(catalog(1), samples=given), fraction=0.5)
    assert cut.part("test") == given[50:]
    assert len(cut.part("validation")) > 10
