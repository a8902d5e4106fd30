"""Every head that becomes Keras layers, against scikit-learn on the same standardised features."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.solved_heads import (
    LAYER_TASKS,
    PAIRS,
    decide_reference,
    make_blobs,
    make_reference,
    make_targets,
)
from sklearn.preprocessing import StandardScaler

from regraft.solvers.decision import Link
from regraft.solvers.solve import SolvedHead, solve

pytestmark = pytest.mark.slow

CLASSES = ("multiclass", "binary")


def decide_in_layers(head: SolvedHead, features):
    """Return the decision values of a head's layers, without temperature and activation."""
    return head.rule.build_layers(features, head.scaler, Link.identity(len(head.link.gain)))


def get_settings(head: SolvedHead, unit: int) -> dict:
    """Return the settings of one output."""
    own = {name.removesuffix(f" {unit}"): value for name, value in head.settings.items()}
    return {name: value for name, value in own.items() if " " not in name}


def solve_reference(head: SolvedHead, task: str, features, targets, unseen):
    """Return scikit-learn's decision values, fitted on the same standardised features."""
    scaler = StandardScaler().fit(features.astype(np.float64))
    data, new = scaler.transform(features.astype(np.float64)), scaler.transform(unseen.astype(np.float64))
    if task in CLASSES:
        classes = len(np.unique(targets))
        fitted = make_reference(head.solver, task, get_settings(head, 0), rows=len(data), classes=classes)
        fitted.fit(data, targets)
        return decide_reference(fitted, new, task)
    columns = []
    if task == "regression":
        targets = StandardScaler().fit_transform(targets.astype(np.float64))
    for unit, truth in enumerate(targets.T.astype(np.float64)):
        fitted = make_reference(head.solver, task, get_settings(head, unit), rows=len(data), classes=2)
        columns.append(decide_reference(fitted.fit(data, truth), new, task))
    return np.hstack(columns)


def save_and_open(head: SolvedHead, width: int, path: Path) -> keras.Model:
    """Return the head as a model that was saved and opened in safe mode, as anyone would."""
    features = keras.Input((width,))
    keras.Model(features, head.build_layers(features)).save(path / "head.keras")
    model = keras.saving.load_model(path / "head.keras", safe_mode=True)
    assert "regraft" not in str(model.get_config())
    return model


@pytest.mark.parametrize(("solver", "task"), PAIRS)
def test_layers_decide_as_scikit_learn_does(solver: str, task: str, tmp_path: Path) -> None:
    features, centre = make_blobs()
    unseen, _ = make_blobs(200, seed=1)
    targets = make_targets(task, features, centre)
    head = solve(solver, features, targets, task=task)
    decisions = solve_reference(head, task, features, targets, unseen)
    np.testing.assert_allclose(np.asarray(decide_in_layers(head, unseen)), decisions, atol=1e-4)
    answers = np.asarray(save_and_open(head, 12, tmp_path)(unseen))
    np.testing.assert_allclose(answers, head.predict(unseen), rtol=1e-5, atol=1e-4)
    if task == "regression":
        np.testing.assert_allclose(
            answers, decisions * targets.std(0) + targets.mean(0), rtol=1e-4, atol=1e-3
        )
    else:
        np.testing.assert_allclose(answers, head.link(decisions), atol=2e-3)


@pytest.mark.parametrize(("solver", "task"), PAIRS)
def test_more_features_than_images(solver: str, task: str, tmp_path: Path) -> None:
    features, centre = make_blobs(40, 90)
    unseen, _ = make_blobs(60, 90, seed=1)
    targets = make_targets(task, features, centre)
    head = solve(solver, features, targets, task=task)
    decisions = solve_reference(head, task, features, targets, unseen)
    np.testing.assert_allclose(np.asarray(decide_in_layers(head, unseen)), decisions, rtol=3e-6, atol=1e-4)


@pytest.fixture(scope="module")
def photographs(clothing: Path, mobilenet_weights: Path, tmp_path_factory: pytest.TempPathFactory):
    """MobileNetV2's pooled features of the clothing images, train and test, with class numbers."""
    from regraft.backbones.load import load_backbone
    from regraft.data.catalog import Catalog
    from regraft.features.extract import extract_features
    from regraft.features.store import Store
    from regraft.models.head import pool_features
    from regraft.recipe import HeadSpec

    catalog = Catalog.from_folder(clothing)
    backbone = load_backbone("mobilenet_v2", weights=str(mobilenet_weights), image_size=224)
    network = keras.Model(backbone.model.inputs[0], {"pooled": pool_features(backbone, HeadSpec())})
    features = extract_features(network, catalog, store=Store(tmp_path_factory.mktemp("store")))
    catalog = catalog.exclude(features.refused)
    parts = [
        [sample for sample in catalog.samples if (sample.part == "test") == test] for test in (False, True)
    ]
    return [(features.matrix(part, "pooled"), catalog.targets(part)) for part in parts]


@pytest.mark.soak
@pytest.mark.parametrize("solver", list(LAYER_TASKS))
def test_all_clothing_test_images_are_decided_as_by_scikit_learn(
    solver: str, photographs, tmp_path: Path
) -> None:
    (features, labels), (unseen, truth) = photographs
    head = solve(solver, features, labels, task="multiclass")
    decisions = solve_reference(head, "multiclass", features, labels, unseen)
    np.testing.assert_allclose(np.asarray(decide_in_layers(head, unseen)), decisions, atol=1e-4)
    answers = np.asarray(save_and_open(head, features.shape[1], tmp_path)(unseen))
    np.testing.assert_allclose(answers, head.predict(unseen), atol=1e-4)
    np.testing.assert_array_equal(answers.argmax(1), head.link(decisions).argmax(1))
    assert len(truth) == 372
    assert (answers.argmax(1) == truth).mean() > (0.77 if solver == "neighbours" else 0.83)
