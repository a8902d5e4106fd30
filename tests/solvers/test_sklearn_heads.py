"""Every head that becomes Keras layers, against scikit-learn on the same standardised features."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.solved_heads import GRAPHS, PAIRS, blobs, reference, reference_decisions, targets_of
from sklearn.preprocessing import StandardScaler

from regraft.solvers.decision import Link
from regraft.solvers.solve import SolvedHead, solve

pytestmark = pytest.mark.slow

CLASSES = ("multiclass", "binary")


def graph_decisions(head: SolvedHead, features):
    """Return the decision values of a head's layers, without temperature and activation."""
    return head.rule.graph(features, head.scaler, Link.none(len(head.link.gain)))


def settings_of(head: SolvedHead, unit: int) -> dict:
    """The settings of one output."""
    own = {name.removesuffix(f" {unit}"): value for name, value in head.settings.items()}
    return {name: value for name, value in own.items() if " " not in name}


def expected(head: SolvedHead, task: str, features, targets, unseen):
    """Decision values and predicted labels of scikit-learn, fitted on the same standardised features."""
    scaler = StandardScaler().fit(features.astype(np.float64))
    data, new = scaler.transform(features.astype(np.float64)), scaler.transform(unseen.astype(np.float64))
    if task in CLASSES:
        classes = len(np.unique(targets))
        fitted = reference(head.solver, task, settings_of(head, 0), rows=len(data), classes=classes)
        fitted.fit(data, targets)
        return reference_decisions(fitted, new, task), fitted.predict(new)
    found = []
    if task == "regression":
        targets = StandardScaler().fit_transform(targets.astype(np.float64))
    for unit, truth in enumerate(targets.T.astype(np.float64)):
        fitted = reference(head.solver, task, settings_of(head, unit), rows=len(data), classes=2)
        found.append(reference_decisions(fitted.fit(data, truth), new, task))
    decisions = np.hstack(found)
    return decisions, (decisions > 0).astype(int)


def labels_of(answers, task: str):
    if task == "multiclass":
        return answers.argmax(1)
    return (answers > 0.5).astype(int)[:, 0] if task == "binary" else (answers > 0.5).astype(int)


def model_of(head: SolvedHead, width: int, path: Path) -> keras.Model:
    """The head as a model with two outputs, saved, and opened in safe mode as anyone would."""
    features = keras.Input((width,))
    keras.Model(features, head.apply(features)).save(path / "head.keras")
    text = keras.saving.load_model(path / "head.keras", safe_mode=True)
    assert "regraft" not in str(text.get_config())
    return text


@pytest.mark.parametrize(("solver", "task"), PAIRS)
def test_layers_decide_as_scikit_learn_does(solver: str, task: str, tmp_path: Path) -> None:
    features, centre = blobs()
    unseen, _ = blobs(200, seed=1)
    targets = targets_of(task, features, centre)
    head = solve(solver, features, targets, task=task)
    decisions, labels = expected(head, task, features, targets, unseen)
    np.testing.assert_allclose(np.asarray(graph_decisions(head, unseen)), decisions, atol=1e-4)
    answers = np.asarray(model_of(head, 12, tmp_path)(unseen))
    np.testing.assert_allclose(answers, head.predict(unseen), rtol=1e-5, atol=1e-4)
    if task == "regression":
        np.testing.assert_allclose(
            answers, decisions * targets.std(0) + targets.mean(0), rtol=1e-4, atol=1e-3
        )
    else:
        np.testing.assert_array_equal(labels_of(answers, task), labels)


@pytest.mark.parametrize(("solver", "task"), PAIRS)
def test_more_features_than_images(solver: str, task: str, tmp_path: Path) -> None:
    features, centre = blobs(40, 90)
    unseen, _ = blobs(60, 90, seed=1)
    targets = targets_of(task, features, centre)
    head = solve(solver, features, targets, task=task)
    decisions, _ = expected(head, task, features, targets, unseen)
    np.testing.assert_allclose(np.asarray(graph_decisions(head, unseen)), decisions, rtol=3e-6, atol=1e-4)


@pytest.fixture(scope="module")
def photographs(clothing: Path, mobilenet_weights: Path, tmp_path_factory: pytest.TempPathFactory):
    """MobileNetV2's pooled features of the clothing photographs: train and test, with class numbers."""
    from regraft.backbones.load import load_backbone
    from regraft.data.catalog import Catalog
    from regraft.features.extract import extract_features
    from regraft.features.store import Store
    from regraft.models.head import pooled
    from regraft.recipe import HeadSpec

    catalog = Catalog.from_folder(clothing)
    backbone = load_backbone("mobilenet_v2", weights=str(mobilenet_weights), image_size=224)
    network = keras.Model(backbone.model.inputs[0], {"pooled": pooled(backbone, HeadSpec())})
    features = extract_features(network, catalog, store=Store(tmp_path_factory.mktemp("store")))
    catalog = catalog.without(features.refused)
    parts = [
        [sample for sample in catalog.samples if (sample.part == "test") == test] for test in (False, True)
    ]
    return [(features.matrix(part, "pooled"), catalog.targets(part)) for part in parts]


@pytest.mark.soak
@pytest.mark.parametrize("solver", list(GRAPHS))
def test_all_clothing_test_images_are_decided_as_by_scikit_learn(
    solver: str, photographs, tmp_path: Path
) -> None:
    (features, labels), (unseen, truth) = photographs
    head = solve(solver, features, labels, task="multiclass")
    decisions, predicted = expected(head, "multiclass", features, labels, unseen)
    np.testing.assert_allclose(np.asarray(graph_decisions(head, unseen)), decisions, atol=1e-4)
    answers = np.asarray(model_of(head, features.shape[1], tmp_path)(unseen))
    np.testing.assert_allclose(answers, head.predict(unseen), atol=1e-4)
    np.testing.assert_array_equal(answers.argmax(1), predicted)
    assert len(truth) == 372
    assert (predicted == truth).mean() > (0.77 if solver == "neighbours" else 0.83)
