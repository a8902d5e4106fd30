"""bf16 is chosen by its effect on predictions for the user's own images, once."""

import re
from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import COLOURS, small_network
from helpers.reporters import Recorder
from sklearn.linear_model import Ridge

from regraft.data.augmentation import View
from regraft.data.catalog import Catalog
from regraft.data.images.decoder_pool import DecodingPool
from regraft.features import precision as precision_module
from regraft.features.engine import EngineRunner
from regraft.features.extract import extract_features
from regraft.features.image_facts import facts_key, read_facts
from regraft.features.keras_engine import Network, engine_name
from regraft.features.precision import MIN_HELD_OUT, SLOW_IMAGES, choose_precision
from regraft.features.store import Store
from regraft.solvers.cross_validation import make_folds
from regraft.solvers.decision import Scaler

pytestmark = [
    pytest.mark.skipif(not engine_name().startswith("openvino"), reason="bf16 is OpenVINO's"),
    pytest.mark.usefixtures("in_this_process"),
]


@pytest.fixture(scope="module")
def network():
    small = small_network()
    return keras.Model(small.inputs, {"cut_0": keras.layers.GlobalAveragePooling2D()(small.outputs[0])})


@pytest.fixture(scope="module")
def constant():
    """A large offset: colours differ in the fourth digit only, and bf16 has two or three."""
    image = keras.Input((32, 32, 3))
    x = keras.layers.ReLU()(keras.layers.Rescaling(0.001, offset=300)(image))
    x = keras.layers.Conv2D(3, 1, kernel_initializer=keras.initializers.Orthogonal(seed=0))(x)
    return keras.Model(image, {"cut_0": keras.layers.GlobalAveragePooling2D()(x)})


@pytest.fixture
def catalog(make_photos):
    return Catalog.from_folder(make_photos(each=24))


@pytest.fixture
def few(make_photos):
    return Catalog.from_folder(make_photos("few", each=4))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def reporter():
    return Recorder()


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """A processor that has bf16, which OpenVINO emulates on others."""
    monkeypatch.setattr(precision_module, "is_fast_in_bf16", lambda engine: True)


def choose(network, catalog, store, reporter, choice="auto"):
    runner = EngineRunner(network, store)
    return choose_precision(runner, catalog, store=store, choice=choice, reporter=reporter)


def as_table(catalog, task):
    """Return the same images with labels or numbers that depend on their colour."""
    names = list(COLOURS)
    cells = {"multilabel": ["cold", "cold|dull", "warm"], "regression": ["1.5", "2.25", "4.5"]}[task]
    colours = [names.index(sample.path.split("/")[0]) for sample in catalog.samples]
    table = {
        "image": [sample.path for sample in catalog.samples],
        "target": [cells[colour] for colour in colours],
    }
    separator = "|" if task == "multilabel" else ""
    return Catalog.from_table(
        table, image="image", target="target", root=catalog.root, separator=separator, task=task
    )


def as_task(catalog, task):
    if task == "multiclass":
        return catalog
    if task == "binary":
        two = [sample for sample in catalog.samples if sample.target != 1]
        return replace(catalog, samples=tuple(two)).require_learnable().as_task("binary")
    return as_table(catalog, task)


TASKS = ["multiclass", "binary", "multilabel", "regression"]


# --- by predictions


@pytest.mark.parametrize("task", TASKS)
def test_bf16_is_used_if_predictions_stay_as_good(network, make_photos, store, reporter, task):
    catalog = as_task(Catalog.from_folder(make_photos(each=32)), task)
    runner, _ = choose(network, catalog, store, reporter)
    assert runner.precision == "bf16"
    (line,) = reporter.lines
    assert line.startswith("Precision: bf16 is used. On ")
    assert "a probe's loss is" in line


@pytest.mark.parametrize("task", TASKS)
def test_bf16_is_not_used_if_predictions_get_worse(constant, make_photos, store, reporter, task):
    catalog = as_task(Catalog.from_folder(make_photos(each=32)), task)
    runner, _ = choose(constant, catalog, store, reporter)
    assert runner.precision == "f32"
    (line,) = reporter.lines
    assert line.startswith("Precision: f32 is used. On ")
    assert "a probe's loss is" in line


def test_the_losses_shown_are_those_of_ridge_regression_on_held_out_images(network, catalog, store, reporter):
    """The penalty is the one with the lowest sum of both losses."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=len(catalog)) + [sample.target for sample in catalog.samples]
    samples = [replace(s, target=(float(v),)) for s, v in zip(catalog.samples, numbers, strict=True)]
    catalog = replace(catalog, samples=tuple(samples), outputs=("number",), task="regression")
    choose(network, catalog, store, reporter)
    samples = sorted(samples, key=lambda sample: sample.digest)
    targets = Scaler.from_features(catalog.targets(samples))(catalog.targets(samples))
    losses = []
    for precision in ("bf16", "f32"):
        features = extract_features(network, catalog, store=store, precision=precision)
        rows = features.matrix(samples, "cut_0")
        losses.append([squared_error(rows, targets, penalty) for penalty in precision_module.PENALTIES])
    rough, exact = np.array(losses)[:, np.sum(losses, 0).argmin()]
    assert (
        f"On {len(samples)} of your images a probe's loss is {rough:.3f} in bf16 and {exact:.3f} in f32"
        in (reporter.lines[0])
    )


def squared_error(rows, targets, penalty):
    data = Scaler.from_features(rows.astype(np.float64))(rows) / np.sqrt(rows.shape[1])
    columns, errors = np.c_[data, np.ones(len(data))], []  # the intercept is penalised like a feature
    for held in make_folds(targets, task="regression", count=5, seed=0):
        mean = targets[~held].mean()
        ridge = Ridge(alpha=penalty * len(rows), fit_intercept=False)
        ridge.fit(columns[~held], targets[~held] - mean)
        answers = ridge.predict(columns[held]).reshape(targets[held].shape) + mean
        errors.append((answers - targets[held]) ** 2)
    return np.concatenate(errors).mean()


@pytest.mark.parametrize(
    ("changes", "images", "verdict"),
    [
        ([0.009], 100, (True, True)),  # less than a hundredth
        ([0.02], 100, (False, False)),
        ([0.5, -0.44], 100, (True, False)),  # 0.03, less than its standard error
        ([0.5, -0.44], 10_000, (False, False)),
        ([0.5, -0.5], 10_000, (True, True)),  # 0, and a hundredth is above its standard error
    ],
)
def test_a_loss_may_rise_by_a_hundredth_or_by_its_standard_error(changes, images, verdict):
    exact = np.ones(images)
    assert precision_module._is_harmless(exact, exact + np.resize(changes, images)) == verdict


@pytest.mark.slow
@pytest.mark.parametrize(("name", "compared"), [("network", 60), ("constant", 72)])
def test_more_images_are_compared_until_the_answer_is_clear(request, catalog, monkeypatch, name, compared):
    """The features of "constant" say nothing in bf16, which is clear only once all images are compared."""
    monkeypatch.setattr(precision_module, "CHUNK", 60)
    network, store, reporter = map(request.getfixturevalue, (name, "store", "reporter"))
    choose(network, catalog, store, reporter)
    assert f"On {compared} of your images a probe's loss is" in reporter.lines[0]


# --- by features


def test_too_few_images_are_compared_by_their_features(network, few, store, reporter):
    features = extract_features(network, few, store=store)
    assert features.precision == "bf16"
    assert choose(network, few, store, reporter)[0].precision == "bf16"


def test_features_that_hardly_differ_between_images_stay_in_f32(constant, few, store, reporter):
    runner, _ = choose(constant, few, store, reporter)
    assert runner.precision == "f32"
    assert "of their spread away from f32's (limit 10 %)" in reporter.lines[0]


def test_images_without_targets_are_compared_by_their_features(network, catalog, store, reporter):
    samples = tuple(replace(sample, target=0) for sample in catalog.samples)
    choose(network, replace(catalog, outputs=("",), samples=samples), store, reporter)
    assert "of their spread away from f32's" in reporter.lines[0]


@pytest.mark.slow
def test_the_difference_shown_is_correct(network, few, store, reporter):
    choose(network, few, store, reporter)
    exact, rough = (
        extract_features(network, few, store=store, precision=precision).matrix(few.samples, "cut_0")
        for precision in ("f32", "bf16")
    )
    spread = np.sqrt(((exact - exact.mean(0)) ** 2).sum())
    difference = np.sqrt(((rough - exact) ** 2).sum())
    assert 0 < difference < spread
    shown = re.search(r"its features are ([\d.]+) % of their spread", reporter.lines[0])
    assert shown is not None
    assert float(shown[1]) == pytest.approx(100 * difference / spread, abs=0.06)  # a rounded digit


# --- which images


def test_images_of_the_test_part_are_not_used(network, catalog, store, reporter):
    samples = [
        replace(sample, part="test" if number % 2 else "train")
        for number, sample in enumerate(catalog.samples)
    ]
    runner, computed = choose(network, replace(catalog, samples=tuple(samples)), store, reporter)
    assert computed == len(catalog) // 2
    tested = [sample.digest for sample in samples if sample.part == "test"]
    assert store.entries(runner.feature_key(View())).find_missing(tested) == tested


def test_a_slow_network_is_compared_on_fewer_images(network, catalog, store, reporter, monkeypatch):
    monkeypatch.setattr(precision_module, "WORK", 1.0)
    _, computed = choose(network, catalog, store, reporter)
    assert computed == SLOW_IMAGES < MIN_HELD_OUT
    assert f"On {SLOW_IMAGES} of your images its features are" in reporter.lines[0]


def test_the_number_of_images_depends_on_multiplications(network):
    """Neither the clock nor other work matter: a network is compared on as many images everywhere."""
    image = keras.Input((8, 8, 3))
    dense = keras.Model(image, keras.layers.Dense(5)(keras.layers.Flatten()(image)))
    assert precision_module._count_work(Network.from_model(dense)) == 8 * 8 * 3 * 5
    work = precision_module._count_work(Network.from_model(network))
    assert precision_module._count_images(work) == precision_module.MAX_IMAGES
    work = precision_module.WORK
    assert precision_module._count_images(work / 100) == 100
    enough = precision_module.ENOUGH_IMAGES
    assert precision_module._count_images(1.5 * work / enough) == enough
    assert precision_module._count_images(work) == precision_module.SLOW_IMAGES


def test_decoding_that_began_earlier_is_used_and_can_still_be_read(network, catalog, store, reporter):
    digests = list(precision_module.sample_images(catalog))
    with DecodingPool(catalog.make_jobs(digests), 32) as decoding:
        _, computed = choose_precision(
            EngineRunner(network, store),
            catalog,
            store=store,
            choice="auto",
            decoding=decoding,
            reporter=reporter,
        )
        assert computed == len(digests)
        assert [result.facts for result in decoding] == list(
            read_facts(store.entries(facts_key(32)), digests)
        )


def test_large_features_are_compared_on_fewer_images(network, catalog, store, reporter, monkeypatch):
    monkeypatch.setattr(precision_module, "MAX_BYTES", 1)
    monkeypatch.setattr(precision_module, "CHUNK", 10)
    assert choose(network, catalog, store, reporter)[1] == 10


def test_features_computed_for_the_choice_are_not_computed_again(network, catalog, store, reporter):
    runner, computed = choose(network, catalog, store, reporter)
    assert computed == len(catalog)
    for key in (runner.feature_key(View()), facts_key(32)):
        assert store.entries(key).find_missing(catalog.digests) == []
    received = extract_features(network, catalog, store=store)
    fresh = extract_features(network, catalog, store=Store(store.root / "fresh"), precision=runner.precision)
    rows = [features.matrix(catalog.samples, "cut_0") for features in (received, fresh)]
    np.testing.assert_array_equal(*rows)
    assert received.facts(catalog.samples) == fresh.facts(catalog.samples)


def test_images_computed_for_the_choice_count_as_computed(network, catalog, store):
    first = extract_features(network, catalog, store=store)
    assert (first.computed, first.reused) == (len(catalog), 0)
    again = extract_features(network, catalog, store=store)
    assert (again.computed, again.reused) == (0, len(catalog))


# --- when


def test_the_answer_is_remembered(network, catalog, store, reporter):
    first, again = (choose(network, catalog, Store(store.root), reporter) for _ in range(2))
    assert (first[0].precision, again[0].precision, again[1]) == ("bf16", "bf16", 0)
    assert len(reporter.lines) == 1


def test_adding_images_does_not_change_the_answer(network, catalog, store, reporter):
    """Unless they are among those of the smallest digests, for which it is remembered."""
    choose(network, replace(catalog, samples=_all_but_the_last(catalog)), store, reporter)
    choose(network, catalog, store, reporter)
    assert len(reporter.lines) == 1


def _all_but_the_last(catalog):
    """Return all samples but the one of the greatest digest."""
    return tuple(sorted(catalog.samples, key=lambda sample: sample.digest)[:-1])


def test_only_added_images_count_as_computed_if_the_choice_is_made_again(network, catalog, store, reporter):
    samples = sorted(catalog.samples, key=lambda sample: sample.digest)
    extract_features(network, replace(catalog, samples=tuple(samples[3:])), store=store, reporter=reporter)
    features = extract_features(network, catalog, store=store, reporter=reporter)
    assert (features.precision, features.computed, features.reused) == ("bf16", 3, len(samples) - 3)
    counts = [int(line.split("On ")[1].split()[0]) for line in reporter.lines if "Precision: " in line]
    assert counts == [len(samples) - 3, len(samples)]


def test_f32_is_used_if_most_features_are_stored_in_f32(network, catalog, store, reporter):
    most = replace(catalog, samples=catalog.samples[: len(catalog) // 2 + 1])
    extract_features(network, most, store=store, precision="f32")
    assert choose(network, catalog, store, reporter)[0].precision == "f32"
    assert reporter.lines == []


@pytest.mark.slow
def test_other_targets_of_the_same_images_need_another_choice(network, catalog, store, reporter):
    for task in ("multilabel", "regression"):
        choose(network, as_table(catalog, task), store, reporter)
    assert len(reporter.lines) == 2


def test_nothing_is_measured_without_bf16_in_the_processor(network, catalog, store, reporter, monkeypatch):
    monkeypatch.undo()  # what `fast` says of the processor
    assert choose(network, catalog, store, reporter)[0].precision == "f32"
    assert reporter.lines == []


@pytest.mark.parametrize("choice", ["f32", "bf16"])
def test_a_stated_precision_is_used_without_measuring(network, few, store, reporter, choice):
    features = extract_features(network, few, store=store, precision=choice)
    assert features.precision == choice
    assert choice in features.key
    assert choose(network, few, store, reporter, choice)[1] == 0
    assert reporter.lines == []


def test_too_few_images_to_compare_stay_in_f32(network, make_photos, store, reporter):
    handful = Catalog.from_folder(make_photos("handful", each=2))
    assert choose(network, handful, store, reporter)[0].precision == "f32"
    assert reporter.lines == []
