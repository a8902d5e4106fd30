"""The split: decided by content, and stable when the data set grows."""

import hashlib
import itertools
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regraft.data.catalog import Catalog, ImageFile, Sample
from regraft.data.split import split


def catalog(*sizes, part="", names=None, first=0):
    """A catalog with the given number of images of each class, all of different content."""
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
        assert abs(cut.count_samples("validation")[label] / size - 0.2) < 0.04
    assert {sample.part for sample in cut.samples} == {"train", "validation"}


@pytest.mark.parametrize("fraction", [0.05, 0.5])
def test_the_share_is_the_one_asked_for(fraction):
    assert (
        abs(split(catalog(4000), fraction=fraction).count_samples("validation")[0] / 4000 - fraction) < 0.03
    )


def test_adding_images_moves_none_that_were_there():
    rng = random.Random(0)
    everything = catalog(400, 400)
    for trial in range(60):
        more = tuple(rng.sample(everything.samples, rng.randint(200, 400)))
        few = more[: rng.randint(80, 199)]
        before = split(replace(everything, samples=few), fraction=0.2, seed=trial)
        after = split(replace(everything, samples=more), fraction=0.2, seed=trial)
        assert min(before.count_samples("train")) >= 10
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
        assert min(cut.count_samples("train")) >= 1
        assert min(cut.count_samples("validation")) >= 1


def test_two_images_are_one_each():
    cut = split(catalog(2, 2), fraction=0.9)
    assert cut.count_samples("train") == cut.count_samples("validation") == [1, 1]


def test_a_single_image_is_trained_on_and_noted():
    cut = split(catalog(20, 1, names=["cat", "wolf"]), fraction=0.5)
    assert cut.count_samples("train")[1] == 1
    assert cut.count_samples("validation")[1] == 0
    assert cut.notes == ("The class wolf has a single image: nothing validates it.",)


def test_two_copies_of_one_image_count_as_one():
    alone = catalog(20, 1)
    copy = replace(alone.samples[-1], path="1/copy.png")
    cut = split(replace(alone, samples=(*alone.samples, copy)), fraction=0.5)
    assert cut.count_samples("train")[1] == 2
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


def digests(rng, count):
    return [f"{rng.getrandbits(128):032x}" for _ in range(count)]


def group_names(catalog, part):
    return {sample.group for sample in catalog.part(part) if sample.group}


def grouped(rng, groups, *, classes=3):
    """Groups of 1 to 30 images, each mostly of one class."""
    samples = []
    for group in range(groups):
        favourite = rng.randrange(classes)
        for content in digests(rng, rng.randint(1, 30)):
            target = favourite if rng.random() < 0.8 else rng.randrange(classes)
            samples.append(Sample(f"{len(samples)}.png", target, content, group=f"patient {group}"))
    return Catalog(Path(), tuple("abcdefgh"[:classes]), tuple(samples))


def test_groups_are_never_divided_and_each_class_has_half_its_share():
    for seed in range(30):
        whole = grouped(random.Random(seed), 40)
        cut = split(whole, fraction=0.2, seed=seed)
        assert not group_names(cut, "train") & group_names(cut, "validation")
        for n, validation in zip(split_counts(whole), cut.count_samples("validation"), strict=True):
            assert 0.1 * n <= validation <= 0.6 * n


def split_counts(whole):
    return [sum(sample.target == label for sample in whole.samples) for label in range(len(whole.outputs))]


def test_groups_that_share_an_image_stay_together():
    rng = random.Random(0)
    for seed in range(20):
        whole = grouped(rng, 30)
        by_group = {sample.group: sample for sample in whole.samples}
        chain = [by_group[f"patient {number}"] for number in range(5)]
        ties = tuple(
            replace(one, path=f"tie/{n}.png", group=other.group)
            for n, (one, other) in enumerate(itertools.pairwise(chain))
        )
        cut = split(replace(whole, samples=whole.samples + ties), fraction=0.3, seed=seed)
        sides = {sample.part for sample in cut.samples if sample.group in {s.group for s in chain}}
        assert len(sides) == 1


def test_samples_that_share_any_image_stay_together():
    rng = random.Random(0)
    for seed in range(40):
        names = digests(rng, 60)
        samples = tuple(
            Sample(
                f"{n}.png", n % 2, names[n], extra_images=(ImageFile(f"b{n}.png", names[(n + n % 3) % 60]),)
            )
            for n in range(60)
        )
        cut = split(replace(catalog(1, 1), samples=samples), fraction=0.3, seed=seed)
        sides = {}
        for sample in cut.samples:
            for photo in sample.images:
                sides.setdefault(photo.digest, set()).add(sample.part)
        assert all(len(side) == 1 for side in sides.values())
        assert {sample.part for sample in cut.samples} == {"train", "validation"}


def test_two_groups_are_one_on_each_side_and_a_class_in_one_group_is_trained_on():
    rng = random.Random(1)
    for seed in range(20):
        samples = [
            Sample(f"{n}.png", n % 2, name, group="ab"[n % 5 == 0]) for n, name in enumerate(digests(rng, 50))
        ]
        cut = split(replace(catalog(1, 1), samples=tuple(samples)), fraction=0.2, seed=seed)
        assert group_names(cut, "train") ^ group_names(cut, "validation") == {"a", "b"}
    whole = grouped(rng, 30, classes=2)
    rare = tuple(Sample(f"rare{n}.png", 2, name, group="patient 3") for n, name in enumerate(digests(rng, 4)))
    for seed in range(20):
        cut = split(Catalog(Path(), ("a", "b", "c"), whole.samples + rare), fraction=0.3, seed=seed)
        assert cut.count_samples("validation")[2] == 0
        assert "The class c has all images in one group" in cut.notes[0]


def multilabel(rng, count, shares):
    samples = []
    for content in digests(rng, count):
        labels = tuple(label for label, share in enumerate(shares) if rng.random() < share)
        samples.append(Sample(f"{len(samples)}.png", labels, content))
    outputs = tuple(f"label{number}" for number in range(len(shares)))
    return Catalog(Path(), outputs, tuple(samples), task="multilabel")


@pytest.mark.slow
def test_every_label_has_its_share_and_rare_ones_at_least_half_of_it():
    shares = (0.6, 0.3, 0.1, 0.02, 0.004, 0.002)
    for seed in range(15):
        whole = multilabel(random.Random(seed), 3000, shares)
        cut = split(whole, fraction=0.2, seed=seed)
        train, validation = np.array(cut.count_samples("train")), np.array(cut.count_samples("validation"))
        assert (abs(validation[:3] / (train + validation)[:3] - 0.2) < 0.08).all()
        several = train + validation > 1
        assert (validation >= 0.1 * (train + validation))[several].all()
        assert (train >= 0.4 * (train + validation))[several].all()
        assert abs(len(cut.part("validation")) / 3000 - 0.2) < 0.03


def test_a_label_of_one_image_is_trained_on_and_noted():
    whole = multilabel(random.Random(0), 200, (0.5, 0.5))
    for seed in range(20):
        samples = (replace(whole.samples[seed], target=(0, 2)), *whole.samples[seed + 1 :])
        cut = split(replace(whole, samples=samples, outputs=("a", "b", "c")), fraction=0.5, seed=seed)
        assert cut.samples[0].part == "train"
        assert cut.notes == ("The label c has a single image: nothing validates it.",)


@pytest.mark.slow
def test_adding_samples_with_labels_moves_almost_none():
    moved = total = 0
    for seed in range(10):
        whole = multilabel(random.Random(seed), 4000, (0.5, 0.2, 0.05))
        before = split(replace(whole, samples=whole.samples[:2000]), fraction=0.2, seed=seed)
        after = parts(split(whole, fraction=0.2, seed=seed))
        moved += sum(after[content] != part for content, part in parts(before).items())
        total += 2000
    assert moved <= total * 0.0005


@pytest.mark.slow
def test_adding_groups_moves_no_others():
    for seed in range(10):
        whole = grouped(random.Random(seed), 400)
        first = tuple(sample for sample in whole.samples if int(sample.group.split()[1]) < 200)
        before = split(replace(whole, samples=first), fraction=0.2, seed=seed)
        assert parts(before).items() <= parts(split(whole, fraction=0.2, seed=seed)).items()


@pytest.mark.slow
def test_a_regression_validates_all_along_its_range():
    rng = random.Random(5)
    for count in (30, 100, 400, 3000):
        samples = tuple(
            Sample(f"{n}.png", (rng.expovariate(1), rng.random()), name)
            for n, name in enumerate(digests(rng, count))
        )
        whole = Catalog(Path(), ("x", "y"), samples, task="regression")
        for seed in range(10):
            cut = split(whole, fraction=0.2, seed=seed)
            for target in (0, 1):
                edges = np.quantile([sample.target[target] for sample in samples], [0, 0.25, 0.5, 0.75, 1])
                found = [sample.target[target] for sample in cut.part("validation")]
                quarters = np.histogram(found, edges)[0]
                assert 0.1 * count <= len(found) <= 0.35 * count
                assert count < 100 or (quarters >= 0.25 * 0.08 * count).all()


def test_a_regression_of_few_values_is_split_too():
    samples = tuple(
        Sample(f"{n}.png", (float(n > 3),), name) for n, name in enumerate(digests(random.Random(0), 6))
    )
    cut = split(Catalog(Path(), ("x",), samples, task="regression"), fraction=0.2)
    assert len(cut.part("validation")) in (1, 2, 3)


def test_nothing_is_held_out_where_nothing_is_asked_for():
    whole = catalog(5, 3)
    assert len(split(whole, fraction=0.0).part("train")) == 8
    tested = replace(whole, samples=tuple(replace(s, part="test") if s.target else s for s in whole.samples))
    cut = split(tested, fraction=0.0)
    assert (len(cut.part("train")), len(cut.part("test"))) == (5, 3)
