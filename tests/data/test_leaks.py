"""Duplicates stay in one part of a split; leaks in a split by the user are counted."""

import hashlib
from pathlib import Path

import numpy as np

from regraft.data.catalog import Catalog, ImageFile, Sample
from regraft.data.duplicates import MAX_CHAIN, NearDuplicates, describe_leaks, find_leaks, group_samples
from regraft.data.images.decode import ImageFacts
from regraft.data.split import split
from regraft.system.console import SilentReporter


def name(number):
    return hashlib.md5(str(number).encode()).hexdigest()


def catalog(parts):
    """An image for each of the given parts, all of different content."""
    samples = (Sample(f"{n}.png", n % 2, name(n), part) for n, part in enumerate(parts))
    return Catalog(Path(), ("a", "b"), tuple(samples))


def test_tied_images_fall_on_one_side():
    whole = catalog([""] * 200)
    ties = [(name(n), name(n + 100)) for n in range(100)]
    for seed in range(5):
        part = {
            sample.digest: sample.part
            for sample in split(whole, fraction=0.3, seed=seed, duplicates=ties).samples
        }
        assert all(part[one] == part[two] for one, two in ties)
        assert 30 < sum(side == "validation" for side in part.values()) < 90


def test_a_tie_to_an_image_of_another_part_ties_nothing_here():
    whole = catalog(["train"] * 50 + ["test"] * 2)
    ties = [(name(0), name(50)), (name(1), name(50))]
    assert split(whole, fraction=0.2, duplicates=ties) == split(whole, fraction=0.2)


def test_what_a_part_before_has_shown_is_leaked():
    whole = catalog(["train", "train", "validation", "validation", "test", "test", "test"])
    ties = [(name(0), name(2)), (name(3), name(4)), (name(5), name(6))]
    found = find_leaks(whole, ties)
    assert {part: [sample.path for sample in samples] for part, samples in found.items()} == {
        "validation": ["2.png"],
        "test": ["4.png"],
    }
    counts, said = describe_leaks(whole, ties)
    assert counts == {"validation": 1, "test": 1}
    assert "1 of 2 validation images" in said[0]
    assert "2.png" in said[0]


def test_copies_of_copies_leak_too():
    whole = catalog(["train", "", "test"])
    assert describe_leaks(whole, [(name(0), name(1)), (name(1), name(2))])[0] == {"test": 1}
    assert describe_leaks(whole, [])[1] == []


def test_samples_that_share_any_image_are_one_group():
    samples = [
        Sample("1.png", 0, name(1), extra_images=(ImageFile("2.png", name(2)),)),
        Sample("3.png", 0, name(3), extra_images=(ImageFile("4.png", name(2)),)),
        Sample("5.png", 0, name(5)),
    ]
    one, two, three = group_samples(samples, []).tolist()
    assert one == two != three
    assert len(set(group_samples(samples, [(name(3), name(5))]).tolist())) == 1


def test_groups_are_numbered_in_the_order_of_the_samples():
    """Folds depend on the numbers, so the numbers must not depend on the process."""
    assert group_samples(catalog([""] * 60).samples, []).tolist() == list(range(60))


def facts(picture):
    return ImageFacts(64, 64, "PNG", thumbnail=np.clip(picture, 0, 255).astype(np.uint8).tobytes())


def test_the_frames_of_a_film_are_chained_and_not_tied():
    rng = np.random.default_rng(0)
    wide = np.kron(rng.normal(120, 60, (8, 60, 3)), np.ones((2, 8, 1)))  # blocks of 2 by 8
    film = {name(n): facts(wide[:, 4 * n : 4 * n + 16]) for n in range(100)}
    apart = {
        name(-n): facts(np.kron(rng.normal(120, 60, (4, 4, 3)), np.ones((4, 4, 1)))) for n in range(1, 9)
    }
    again = {"copy": facts(np.frombuffer(apart[name(-3)].thumbnail, np.uint8).reshape(16, 16, 3) + 8.0)}
    copies = NearDuplicates.from_facts({**film, **apart, **again}, reporter=SilentReporter())
    assert ("copy", name(-3)) in copies.digest_pairs or (name(-3), "copy") in copies.digest_pairs
    assert len(copies.digest_pairs) <= MAX_CHAIN
