"""Familiarity is a p-value: it holds its level, and images of other kinds and of new classes are below it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from regraft.data.samples import Sample
from regraft.uncertainty.familiarity import (
    LEVEL,
    MAX_REFERENCES,
    Familiarity,
    Tail,
    fit_familiarity,
    is_count_surprising,
    measure_doubt,
)
from regraft.uncertainty.file import Uncertainty, read_uncertainty, write_uncertainty
from regraft.uncertainty.held_out import HeldOutAnswers, ReferenceImages

WIDTH = 24


def draw(rng, count, *, classes=4):
    """Return features of classes around their centres, and their labels."""
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).random((classes, WIDTH))
    return np.abs(centres[labels] + rng.normal(0, 0.15, (count, WIDTH))).astype(np.float32), labels


def answer(features, classes=4):
    centres = np.random.default_rng(99).random((classes, WIDTH))
    distances = ((features[:, None] - centres) ** 2).sum(2)
    powers = np.exp(-3 * (distances - distances.min(1, keepdims=True)))
    return powers / powers.sum(1, keepdims=True)


def list_samples(count, prefix="image"):
    return tuple(Sample(f"{prefix}-{row}.jpg", 0, f"{prefix}{row}") for row in range(count))


def make_parts(count=400, *, source="cross-validation", seed=0, task="multiclass"):
    """Return held-out answers and reference images, as a run has them."""
    rng = np.random.default_rng(seed)
    features, labels = draw(rng, count)
    samples = list_samples(count)
    reference = ReferenceImages(samples, labels, features, np.arange(count))
    held, held_samples = features, samples
    if source == "validation":
        held, labels = draw(rng, count)
        held_samples = list_samples(count, "validation")
    answers = answer(held) if task == "multiclass" else held[:, :2]
    return HeldOutAnswers(held_samples, labels, answers, held, source), reference


def fit(held_out, reference, task="multiclass") -> Familiarity:
    familiarity = fit_familiarity(
        held_out, reference, task=task, labels=["a"] * len(reference.samples), seed=0
    )
    assert familiarity is not None
    return familiarity


@pytest.mark.parametrize("source", ["cross-validation", "validation"])
def test_the_level_holds_for_new_images_like_those_of_training(source):
    familiarity = fit(*make_parts(1000, source=source))
    features, _ = draw(np.random.default_rng(7), 4000)
    values = familiarity.measure(features, answer(features))
    assert (values > 0).all()
    assert (values <= 1).all()
    for level in (0.01, 0.1, 0.5):
        assert 0.3 * level < (values < level).mean() < 2 * level


def test_images_of_another_kind_and_of_a_new_class_are_unfamiliar():
    familiarity = fit(*make_parts())
    rng = np.random.default_rng(3)
    noise = rng.random((50, WIDTH)).astype(np.float32) * (rng.random((50, WIDTH)) < 0.2)
    assert (familiarity.measure(noise, answer(noise)) < LEVEL).mean() > 0.95
    between, _ = draw(rng, 200, classes=5)  # the fifth class is new
    values = familiarity.measure(between, answer(between))
    new = np.arange(200) % 5 == 4
    assert values[new].mean() < 0.1 * values[~new].mean()


def test_copies_do_not_make_other_images_strange():
    held_out, reference = make_parts(200)
    twice = np.arange(400) // 2
    samples = list_samples(400)
    copied = ReferenceImages(samples, reference.targets[twice], reference.features[twice], twice)
    answers = replace(
        held_out,
        samples=samples,
        features=copied.features,
        answers=held_out.answers[twice],
        targets=copied.targets,
    )
    features, _ = draw(np.random.default_rng(5), 1000)
    values = fit(answers, copied).measure(features, answer(features))
    assert (values < LEVEL).mean() < 2 * LEVEL
    blind = replace(copied, groups=np.arange(400))
    far, far_of_blind = (fit(answers, one).distances[1].values.mean() for one in (copied, blind))
    assert far_of_blind < far  # copies that nobody names are neighbours


def test_a_copy_of_a_training_image_among_validation_images_is_no_neighbour():
    held_out, reference = make_parts(300, source="validation")
    samples = (*held_out.samples[:200], *reference.samples[200:])
    features = np.concatenate([held_out.features[:200], reference.features[200:]])
    leaked = replace(held_out, samples=samples, features=features, answers=answer(features))
    assert (
        fit(leaked, reference).distances[1].values.min()
        > 0.5 * fit(held_out, reference).distances[1].values.min()
    )


@pytest.mark.parametrize("task", ["regression", "multilabel", "binary"])
def test_every_task_has_a_familiarity(task):
    held_out, reference = make_parts(120)
    units = {"regression": 2, "multilabel": 3, "binary": 1}[task]
    targets = {"binary": reference.targets % 2, "multilabel": np.eye(4)[reference.targets][:, :3]}
    reference = replace(reference, targets=targets.get(task, reference.features[:, :2]))
    answers = np.clip(held_out.features[:, :units], 0.01, 0.99)
    familiarity = fit(replace(held_out, targets=reference.targets, answers=answers), reference, task)
    assert (familiarity.doubt is None) == (task == "regression")
    strange = np.eye(WIDTH, dtype=np.float32)
    assert (familiarity.measure(strange, np.full((WIDTH, units), 0.5)) < LEVEL).all()
    assert np.median(familiarity.measure(held_out.features, answers)) > 0.2


def test_without_held_out_answers_training_images_are_compared_with_one_another():
    _, reference = make_parts(300)
    familiarity = fit(None, reference)
    features, _ = draw(np.random.default_rng(2), 1000)
    assert familiarity.doubt is None
    assert (familiarity.measure(features, answer(features)) < LEVEL).mean() < 2.5 * LEVEL


def test_tiny_sets_and_a_class_of_two_have_a_familiarity():
    held_out, reference = make_parts(30)
    labels = np.array([3, 3, *np.arange(28) % 3])
    familiarity = fit(held_out, replace(reference, targets=labels))
    features, _ = draw(np.random.default_rng(2), 500)
    assert (familiarity.measure(features, answer(features)) < LEVEL).mean() < 0.05
    noise = np.eye(WIDTH, dtype=np.float32)
    assert (familiarity.measure(noise, answer(noise)) < LEVEL).mean() > 0.8


def test_too_few_images_cannot_tell():
    held_out, reference = make_parts(6)
    assert fit_familiarity(held_out, reference, task="multiclass", labels=["a"] * 6, seed=0) is None
    same = replace(reference, groups=np.zeros(6, np.int64))
    assert fit_familiarity(None, same, task="multiclass", labels=["a"] * 6, seed=0) is None


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_features_are_all_familiar(value):
    held_out, reference = make_parts(60)
    constant = np.full_like(reference.features, value)
    answers = np.full((60, 4), 0.25)
    familiarity = fit(
        replace(held_out, features=constant, answers=answers), replace(reference, features=constant)
    )
    assert (familiarity.measure(constant, answers) > 0.3).all()


@pytest.mark.slow
def test_many_images_are_sampled_by_class_and_the_file_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    count, width = MAX_REFERENCES + 600, 2500
    features = rng.random((count, width), np.float32)
    targets = np.repeat([0, 1], [count - 100, 100])
    reference = ReferenceImages(list_samples(count), targets, features, np.arange(count))
    familiarity = fit(None, reference)
    assert len(familiarity.names) == pytest.approx(MAX_REFERENCES, abs=2)
    path = tmp_path / "uncertainty.npz"
    write_uncertainty(Uncertainty(familiarity=familiarity), path)
    assert path.stat().st_size < 10e6


def test_a_file_gives_the_same_familiarity_and_nearest_images(tmp_path):
    held_out, reference = make_parts(100)
    names = tuple(replace(sample, path=f"caf\udce9/{sample.path}") for sample in reference.samples)
    familiarity = fit(held_out, replace(reference, samples=names))
    write_uncertainty(Uncertainty(familiarity=familiarity), tmp_path / "file.npz")
    stored = read_uncertainty(tmp_path / "file.npz").familiarity
    assert stored is not None
    features, _ = draw(np.random.default_rng(1), 40)
    np.testing.assert_array_equal(
        stored.measure(features, answer(features)), familiarity.measure(features, answer(features))
    )
    rows, _ = stored.find_nearest(reference.features[:3], 2)
    assert [str(name) for name in stored.names[rows[:, 0]]] == [
        f"caf\\udce9/image-{row}.jpg" for row in range(3)
    ]
    assert set(stored.labels) == {"a"}


def test_the_same_images_give_the_same_bits():
    one, other = (fit(*make_parts(80)).to_arrays() for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_tail_counts_inside_and_falls_exponentially_beyond():
    values = np.random.default_rng(0).exponential(2.0, 5000)
    tail = Tail.from_values(values, 0.1)
    points = np.array([0.1, 1.0, 3.0, 10.0, 30.0])
    np.testing.assert_allclose(tail.surprise(points), points / 2, rtol=0.12, atol=0.02)
    assert (np.diff(tail.surprise(np.linspace(-1, 50, 999))) >= -1e-9).all()


def test_doubt_is_the_entropy():
    from scipy.stats import entropy

    answers = np.random.default_rng(0).dirichlet(np.ones(5), 9)
    np.testing.assert_allclose(measure_doubt(answers, "multiclass"), entropy(answers, axis=1), atol=1e-9)
    sure = measure_doubt(np.array([[1.0, 0.0]]), "multilabel")
    assert 0 <= sure[0] < 1e-9


@pytest.mark.parametrize("count", [50, 372, 5000])
def test_a_surprising_count_agrees_with_the_binomial_distribution(count):
    for unfamiliar in range(0, count // 10, max(1, count // 400)):
        expected = binom.sf(unfamiliar - 1, count, 2 * LEVEL) < 1e-3
        assert is_count_surprising(unfamiliar, count) == expected
