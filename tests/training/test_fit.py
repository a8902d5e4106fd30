"""Fine-tuning: it starts from the solved head, keeps the best weights, and stops when it should."""

from __future__ import annotations

import json
import os
import signal

import keras
import numpy as np
import pytest
from conftest import Recorder, small_network

from regraft.backbones.load import load_backbone
from regraft.data.augmentation import augment_batch
from regraft.data.batches import Batches
from regraft.data.catalog import Sample
from regraft.models.cut import cut
from regraft.models.freeze import freeze, resolve_plan
from regraft.models.head import HEAD_OUTPUT, graft
from regraft.recipe import HeadSpec, Phase
from regraft.solvers.calibration import fit_answer_link
from regraft.solvers.solve import solve
from regraft.system.console import TERMINAL, Reporter
from regraft.tasks import TASKS
from regraft.training.fit import Trainer
from regraft.training.loop import PhaseResult
from regraft.training.optimizers import Schedule, compile_network
from regraft.training.outcome import Decision
from regraft.training.training_data import PhaseData

SIZE = 32


class SolvedTask:
    """A solved small model and images it can still improve on: the class is the brighter half."""

    def __init__(
        self, *, train: int = 48, validation: int = 24, seed: int = 0, augment: tuple[str, ...] = ()
    ) -> None:
        rng = np.random.default_rng(seed)
        count = train + validation
        labels = np.arange(count) % 2
        images = rng.integers(0, 160, (count, SIZE, SIZE, 3))
        images[labels == 0, :, : SIZE // 2] += 60
        images[labels == 1, :, SIZE // 2 :] += 60
        pixels = {f"{i}": image.astype(np.uint8) for i, image in enumerate(images)}

        def read(samples: list[Sample]) -> tuple[np.ndarray, ...]:
            return (np.stack([pixels[sample.digest] for sample in samples]),)

        samples = [Sample(f"{i}.png", int(label), f"{i}") for i, label in enumerate(labels)]
        targets = TASKS["multiclass"].encode(labels, 2)
        self.train = Batches(
            samples[:train], targets[:train], read, batch_size=8,
            augment=lambda batch, key: augment_batch(batch, augment, key),
        )  # fmt: skip
        self.validation = Batches(samples[train:], targets[train:], read, batch_size=8)
        self.backbone = load_backbone(small_network())
        for layer in self.backbone.layers:  # too much for features of random weights
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        self.model = graft(self.backbone, HeadSpec(dropout=0.0), outputs=2)
        vectors = keras.Model(self.model.inputs, self.model.get_layer(HEAD_OUTPUT).input)
        features = vectors.predict(read(samples[:train])[0].astype("float32"), verbose=0)
        solved = solve("logistic", features, labels[:train], task="multiclass")
        self.model.get_layer(HEAD_OUTPUT).set_weights([solved.weights, solved.bias])

    def tune(
        self, unfreeze: str = "all", *, budget: float = 600, reporter: Reporter = TERMINAL, **phase: object
    ):
        settings = Phase(unfreeze, **{"epochs": 2, "batch_size": 8, **phase})
        data = PhaseData(TASKS["multiclass"], self.train, self.validation)
        return Trainer(self.model, self.backbone, reporter).train(settings, data, budget=budget)

    def weights(self) -> dict[str, np.ndarray]:
        return {
            variable.path: keras.ops.convert_to_numpy(variable).copy()
            for variable in self.model.variables
            if "seed_generator" not in variable.path
        }


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_first_record_is_the_solved_head_itself() -> None:
    task = SolvedTask()
    before = np.concatenate(
        [task.model.predict_on_batch(batch.inputs[0]) for batch in task.validation.iter_in_order()]
    )
    labels = np.array([sample.target for sample in task.validation.samples])
    result = task.tune(epochs=1, learning_rate=1e-6)
    expected = -np.log(before[np.arange(len(labels)), labels]).mean()
    assert result.history[0].val_loss == pytest.approx(expected, rel=1e-4)
    assert result.history[0].epoch == 0


@pytest.mark.slow
def test_training_everything_moves_every_kernel_and_no_batch_normalisation() -> None:
    task = SolvedTask()
    before = task.weights()
    result = task.tune(epochs=4, learning_rate=2e-4, warmup=0.0)
    assert result.best > 0
    for path, value in task.weights().items():
        moved = not np.array_equal(value, before[path])
        assert moved == ("conv" in path or HEAD_OUTPUT in path), path


@pytest.mark.slow
def test_a_plan_leaves_everything_outside_it_bit_identical() -> None:
    task = SolvedTask()
    before = task.weights()
    task.tune("last:1", epochs=4, learning_rate=2e-4, warmup=0.0)
    moved = {path for path, value in task.weights().items() if not np.array_equal(value, before[path])}
    assert moved
    assert all("top_conv" in path or HEAD_OUTPUT in path for path in moved)


@pytest.mark.slow
def test_model_ends_with_the_weights_that_the_result_names() -> None:
    task = SolvedTask()
    result = task.tune(epochs=4, learning_rate=5e-3)
    losses = []
    for batch in task.validation.iter_in_order():
        answer = task.model.predict_on_batch(batch.inputs[0])
        losses.append(-np.log((answer * batch.targets).sum(1)))
    assert np.concatenate(losses).mean() == pytest.approx(result.final.val_loss, rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_the_trained_model_ends_calibrated_on_validation() -> None:
    """Training on few images by a high rate makes certain of everything; the last step takes that back."""
    task = SolvedTask(validation=64)
    head = task.model.get_layer(HEAD_OUTPUT)
    head.set_weights([5 * array for array in head.get_weights()])
    result = task.tune(epochs=3, learning_rate=2e-4, warmup=0.0)
    assert result.best > 0
    assert not result.uncalibrated
    record = result.final
    assert record.val_loss_calibrated < 0.9 * record.val_loss
    assert record.judged_loss < result.history[0].judged_loss
    answers = np.concatenate(
        [task.model.predict_on_batch(batch.inputs[0]) for batch in task.validation.iter_in_order()]
    )
    truth = task.validation.targets
    assert -np.log((answers * truth).sum(1)).mean() == pytest.approx(record.judged_loss, rel=1e-3)
    again = fit_answer_link(answers, truth, np.ones((64, 1)), task="multiclass")
    np.testing.assert_allclose(again.gain, 1, rtol=0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_few_validation_images_leave_the_probabilities_and_the_reason_says_so() -> None:
    result = SolvedTask().tune("last:1", epochs=2, learning_rate=2e-4, warmup=0.0)
    assert result.link is None
    assert all(np.isnan(record.val_loss_calibrated) for record in result.history)
    assert result.uncalibrated == "24 validation images are too few for it"
    if result.best:
        assert result.uncalibrated in Decision.from_phases((result,), "top-1").reason


@pytest.mark.slow
def test_the_gain_is_that_of_the_best_epoch_over_the_model_before() -> None:
    task = SolvedTask()
    before = np.concatenate(
        [task.model.predict_on_batch(b.inputs[0]) for b in task.validation.iter_in_order()]
    )
    result = task.tune(epochs=3, learning_rate=2e-3)
    after = np.concatenate(
        [task.model.predict_on_batch(b.inputs[0]) for b in task.validation.iter_in_order()]
    )
    first, best = result.history[0].val_score, result.final.val_score
    assert result.best > 0
    assert result.gain.value == pytest.approx(best - first)
    assert result.gain == TASKS["multiclass"].compare(before, after, task.validation.targets)
    again = PhaseResult(Phase("all"), result.trained)
    again.restore(json.loads(json.dumps(result.state())))
    assert again.gain == result.gain


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_solved_head_comes_back_when_training_only_makes_it_worse() -> None:
    task = SolvedTask()
    before = task.weights()
    result = task.tune(epochs=3, learning_rate=10.0, backbone_rate=1.0)
    assert result.best == 0
    assert result.gain is None
    for path, value in task.weights().items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_a_loss_that_is_not_finite_ends_training_and_restores_the_weights() -> None:
    task = SolvedTask()
    before = task.weights()
    result = task.tune(epochs=3, learning_rate=1e30, backbone_rate=1.0)
    assert result.stopped == "diverged"
    assert result.best == 0
    assert np.isnan(result.history[-1].loss)
    for path, value in task.weights().items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [2, None])  # asked for, chosen by the clock
def test_the_first_steps_estimate_an_epoch(epochs: int | None) -> None:
    recorder = Recorder()
    result = SolvedTask().tune(epochs=epochs, reporter=recorder)
    (line,) = [line for line in recorder.lines if line.startswith("By the first steps")]
    assert f"{result.planned_epochs} epochs" in line
    assert recorder.lines.index(line) < next(n for n, text in enumerate(recorder.lines) if "Epoch 1/" in text)


@pytest.mark.slow
def test_patience_ends_training_that_does_not_improve() -> None:
    result = SolvedTask().tune(epochs=9, learning_rate=1e-30, patience=2)  # no weight changes in float32
    assert result.stopped == "no progress"
    assert result.best == 0
    assert [record.epoch for record in result.history] == [0, 1, 2]


@pytest.mark.slow
def test_a_spent_budget_ends_training_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    task, steps = SolvedTask(), []
    train_on_batch = keras.Model.train_on_batch

    def count(self: keras.Model, inputs: object, targets: object) -> object:
        steps.append(len(targets))
        return train_on_batch(self, inputs, targets)

    monkeypatch.setattr(keras.Model, "train_on_batch", count)
    monkeypatch.setattr(Schedule, "seconds_left", property(lambda self: 8.5 - self.step))  # a second a step
    result = task.tune(epochs=500, patience=500)
    assert result.stopped == "budget"
    assert len(result.history) == 3  # six steps, and three of the second epoch
    assert len(steps) == 9


class InterruptedIn:
    """Batches that send Ctrl-C in the middle of an epoch."""

    def __init__(self, batches: Batches, epoch: int) -> None:
        self._batches, self._epoch = batches, epoch

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> object:
        return getattr(self._batches, name)

    def iter_shuffled(self, epoch: int, begin: int = 0):
        for number, batch in enumerate(self._batches.iter_shuffled(epoch, begin), begin):
            if (epoch, number) == (self._epoch, 2):
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


@pytest.mark.slow
def test_interrupt_keeps_the_best_so_far_and_restores_the_handler() -> None:
    task = SolvedTask()
    handler = signal.getsignal(signal.SIGINT)
    task.train = InterruptedIn(task.train, epoch=2)
    result = task.tune(epochs=5, patience=5)
    assert result.stopped == "interrupted"
    assert len(result.history) == 3
    assert signal.getsignal(signal.SIGINT) is handler
    assert all(np.isfinite(value).all() for value in task.weights().values())


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_pretrained_layers_learn_more_slowly_than_the_head() -> None:
    task = SolvedTask(train=8)
    freeze(task.backbone, "all")
    joined = cut(task.model, resolve_plan(task.backbone, "all")).join_halves()
    phase = Phase(learning_rate=1e-3, backbone_rate=0.1, weight_decay=0.0)
    rates = compile_network(joined, task.backbone, phase, "categorical_crossentropy")
    rates.set(1e-3)
    head = task.model.get_layer(HEAD_OUTPUT)
    head.set_weights([np.zeros_like(weight) for weight in head.get_weights()])
    head.kernel.assign(np.random.default_rng(0).normal(0, 0.1, head.kernel.shape))
    before = task.weights()
    batch = next(task.train.iter_in_order())
    joined.train_on_batch(batch.inputs[0], batch.targets)
    moved = {path: np.abs(value - before[path]).max() for path, value in task.weights().items()}
    # Adam's first step is the rate itself, wherever there is a gradient.
    for name, rate in ((HEAD_OUTPUT, 1e-3), ("top_conv", 1e-4)):
        (change,) = [change for path, change in moved.items() if f"{name}/kernel" in path]
        assert change == pytest.approx(rate, rel=0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_same_seed_gives_the_same_weights() -> None:
    first, second = SolvedTask(augment=("flip", "crop")), SolvedTask(augment=("flip", "crop"))
    first.tune(epochs=2)
    second.tune(epochs=2)
    pairs = zip(first.weights().values(), second.weights().values(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
