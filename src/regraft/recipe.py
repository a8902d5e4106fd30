"""`Recipe`: all settings of a run as frozen dataclasses, with their defaults; TOML in and out.

A recipe is checked when it is made, so a bad one fails before any work. It holds settings only, never code,
and can be written, read and run again.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from regraft.errors import UsageError, describe_os_error
from regraft.settings.kinds import Kinds, build_settings, check_kinds, drop_none, expect
from regraft.settings.network_list import AUTO, split_for_each, split_networks

__all__ = [
    "AUGMENTATIONS",
    "HEAD_PHASE",
    "TAP_SOLVERS",
    "HeadSpec",
    "Phase",
    "Recipe",
    "SearchSpace",
    "Solver",
    "Space",
    "Taps",
]

Pooling = Literal["avg", "max", "both", "gem", "attention"]
Attention = Literal["none", "se", "cbam"]
Normalization = Literal["none", "batch", "layer"]
Solver = Literal["auto", "gradient", "logistic", "svm", "svm-rbf", "ridge", "lda", "neighbours", "boosting"]
PrecisionChoice = Literal["auto", "f32", "bf16"]
Taps = Literal["last", "late", "auto"]
ClassWeight = Literal["none", "balanced"]
Refit = Literal["auto", "never"]
ClassifierChoice = Literal["auto", "keep", "cut"]
TaskChoice = Literal["auto", "multiclass", "binary", "multilabel", "regression"]
AUGMENTATIONS = ("flip", "crop", "rotation", "zoom", "colour", "mixup", "cutmix", "randaugment")

BUDGET = 900.0  # seconds of all phases together, if the recipe sets none
SPARE = 75.0  # seconds of all phases within which "auto" does more than it must, if the recipe sets none
VIEWS = 4  # of a training image, if a frozen backbone sees augmented ones
TAP_SOLVERS = ("auto", "gradient", "logistic", "ridge", "lda", "svm")  # their head is one Dense layer

_UNFREEZE = re.compile(r"none|all|auto|last:\d+|from:\d+|stage:.+|match:.+")
PLANS = "none, all, auto, last:N, from:I, stage:NAME or match:REGEX"


@dataclass(frozen=True)
class HeadSpec:
    """The head on the backbone: attention, convolutions, pooling, hidden layers, dropout and an output.

    Attributes:
        pooling: how the feature map becomes a vector: average, maximum, both, generalised mean or attention.
        attention: attention on the feature map, before all else: squeeze-and-excitation or CBAM.
        convolutions: numbers of filters of 3x3 ReLU convolutions before pooling.
        hidden: numbers of units of ReLU layers after pooling.
        normalization: normalisation of the pooled vector and after each hidden layer.
        dropout: share dropped before the output, in training only. None: 0.2 for a head that is trained by
            gradient, and 0 for one that is solved, because noise would undo the solution.
        solver: how the head is trained: by "gradient", or solved by a classical method, which needs a head
            without weights before its output; "auto" solves it if it can be solved.
        taps: layers whose pooled features a linear head uses: the backbone's output ("last"), also the layers
            of that resolution near the end ("late"), or those near the end that cross-validation chooses
            ("auto"): the output alone if others help no more than chance, if the head is not solved as a
            Dense layer, or if the backbone shows no other layers.
        source: `python:NAME` for a head that was passed in from Python, and is to be passed in again; "" for
            one that the other settings describe.
    """

    pooling: Pooling = "avg"
    attention: Attention = "none"
    convolutions: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    normalization: Normalization = "none"
    dropout: float | None = None
    solver: Solver = "auto"
    taps: Taps = "auto"
    source: str = ""

    def __post_init__(self) -> None:
        check_kinds(self, "head.")
        for name in ("convolutions", "hidden"):
            values = getattr(self, name)
            expect(all(value > 0 for value in values), f"head.{name}", "whole numbers from 1", values)
        valid = self.dropout is None or 0 <= self.dropout < 1
        expect(valid, "head.dropout", "a number from 0 to below 1", self.dropout)
        solvable = self.linear or self.solver in ("auto", "gradient")
        words = "auto or gradient for a head that has more to learn than its output layer"
        expect(solvable, "head.solver", words, self.solver)
        dense = self.linear and self.solver in TAP_SOLVERS
        words = "auto, last, or a head whose only layer with weights is its output, by "
        expect(self.taps != "late" or dense, "head.taps", words + ", ".join(TAP_SOLVERS), self.taps)

    @property
    def linear(self) -> bool:
        """Whether only the output layer has weights, so that a classical method can solve the head.

        >>> HeadSpec(pooling="both").linear, HeadSpec(hidden=(64,)).linear
        (True, False)
        """
        plain = self.attention == self.normalization == "none" and self.pooling not in ("gem", "attention")
        return plain and not self.convolutions and not self.hidden

    @property
    def chooses_taps(self) -> bool:
        """Whether cross-validation chooses the layers whose features the head uses."""
        return (
            self.taps == "auto" and self.linear and self.solver in TAP_SOLVERS and self.solver != "gradient"
        )


@dataclass(frozen=True)
class Phase:
    """A phase of training by gradient: which layers train, for how long and how fast.

    Attributes:
        unfreeze: the freeze plan: "none" (the head alone), "all", "last:N", "from:I", "stage:NAME",
            "match:REGEX" or "auto" (the deepest that fits the budget). In Python also a function from a layer
            to whether it trains; a run records the names of the layers that it chose.
        epochs: passes over the training images; None for as many as fit the budget.
        batch_size: images per step.
        learning_rate: peak learning rate of the head, for AdamW.
        backbone_rate: learning rate of the pre-trained layers, as a share of `learning_rate`.
        depth_decay: factor on the rate for each stage further from the head; 1 for the same rate everywhere.
        warmup: share of all steps in which the rate rises from zero; then it falls to zero as a cosine.
        weight_decay: weight decay of AdamW.
        patience: epochs without improvement on validation after which the phase stops.
    """

    unfreeze: str | Callable[[Any], bool] = "auto"
    epochs: int | None = None
    batch_size: int = 16
    learning_rate: float = 1e-3
    backbone_rate: float = 0.3
    depth_decay: float = 1.0
    warmup: float = 0.1
    weight_decay: float = 1e-4
    patience: int = 5

    def __post_init__(self) -> None:
        check_kinds(self, kinds=_KINDS)
        plan = self.unfreeze
        valid = callable(plan) or (isinstance(plan, str) and _UNFREEZE.fullmatch(plan) is not None)
        expect(valid, "unfreeze", PLANS, plan)
        expect(self.epochs is None or self.epochs > 0, "epochs", "a whole number from 1", self.epochs)
        expect(self.batch_size > 0, "batch_size", "a whole number from 1", self.batch_size)
        expect(self.learning_rate > 0, "learning_rate", "a number above 0", self.learning_rate)
        expect(0 < self.backbone_rate <= 1, "backbone_rate", "above 0 and up to 1", self.backbone_rate)
        expect(0 < self.depth_decay <= 1, "depth_decay", "above 0 and up to 1", self.depth_decay)
        expect(0 <= self.warmup < 1, "warmup", "a share from 0 to below 1", self.warmup)
        expect(self.weight_decay >= 0, "weight_decay", "a number from 0", self.weight_decay)
        expect(self.patience > 0, "patience", "a whole number from 1", self.patience)


_KINDS: Kinds = {
    str | Callable[[Any], bool]: ((object,), PLANS),
    tuple[Phase, ...]: ((tuple,), "a list of phases"),
}


@dataclass(frozen=True)
class Recipe:
    """All settings of a run.

    Attributes:
        data: folder of images or table of their names, for the record and for running again; `python:KIND`
            for data that were passed in from Python, and are to be passed in again.
        image, target: columns of the table: image files (several make one sample), and what to predict.
        group, split: columns of the table: groups that stay in one part, and the user's own parts.
        weight: column of the table: how much each image counts in training, from 0; "" for all alike. Scores
            do not use it.
        separator: separator between several labels in a cell.
        root: folder that the paths in the table are relative to; "" for the folder of the table.
        slice: columns of the table that divide the images, such as hospital or camera: scores are reported
            for each of their values, or for quarters of numbers.
        task: the kind of target; "auto" detects it from the data and reports it.
        validation: share of the training images held out for validation if the data have no such part; 0 for
            none.
        backbone: a name from `regraft backbones`, a `.keras` file, a SavedModel's folder or handle, or a
            preset; several of them with commas between, which stay frozen: their features stand side by side
            under one head; or "auto" for the one or two that `recommend` ranks first.
        max_latency: with "auto", the most milliseconds that the networks may take for an image on this
            machine, as `recommend` measures them; None for any time.
        weights: "imagenet", a weights file, or the word "random"; for several networks one for all, or one
            for each with commas between. So are `pixels`.
        pixels: the pixels that the user's own backbone expects, see `regraft.backbones.preprocessing`;
            "" if the backbone's are known.
        classifier: what becomes of a classifier at the end of the user's own backbone: "cut" off, "keep" its
            answers as features, or "auto", which cuts off what is plainly one.
        image_size: side of the square input in pixels; None for the backbone's default.
        depth: how many bits of 16-bit samples are used, 8 to 16: 12 for a camera whose white is 4095.
        phases: training by gradient, in order, after the head is trained; none keeps the backbone frozen.
        augment: changes of training images: any of `AUGMENTATIONS`, or "auto": flip and crop for labels and
            none for regression, since a changed image may have another target.
        views: versions of each training image that pass through the frozen layers, including the image
            itself. None: 4 if the backbone stays frozen and `augment` names something, 1 for a head
            otherwise, and as many as are worth their time if a phase stores the output of its frozen layers.
        feature_noise: relative deviation of the random noise on each channel of stored features, new for each
            sample in each epoch, when a head or a phase is trained on them by gradient.
        precision: precision of the frozen network; "auto" is bf16 if the processor or GPU has it and answers
            to the user's images hardly suffer. A run records the precision that it used.
        budget: seconds that all phases together may take. None: `BUDGET` for what the recipe asks for, and
            `SPARE` for what "auto" adds to it: deeper plans to compare, a refit of what was trained.
        store_limit: bytes that the phases of a run may use to store the output of their frozen layers.
        class_weight: "balanced" weights samples so that all classes, or the yes and no of each label, count
            alike; a product with the images' own weights, if they have some.
        refit: "auto" lets the final model learn from the validation images as well, after they have served to
            choose and to score it; "never" leaves it as it was scored.
        seed: random seed of the split, the folds, the order of images, augmentation and dropout.
        head: see `HeadSpec`.

    Example:
        >>> Recipe(phases=(Phase("last:20", learning_rate=1e-4),)).phases[0].unfreeze
        'last:20'
        >>> Recipe(seed=-1)
        Traceback (most recent call last):
        regraft.errors.UsageError: seed: expected a whole number from 0. Received: -1.
    """

    data: str = ""
    image: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    group: str = ""
    split: str = ""
    weight: str = ""
    separator: str = ""
    root: str = ""
    slice: tuple[str, ...] = ()
    task: TaskChoice = "auto"
    validation: float = 0.2
    backbone: str = "mobilenet_v2"
    max_latency: float | None = None
    weights: str = "imagenet"
    pixels: str = ""
    classifier: ClassifierChoice = "auto"
    image_size: int | None = None
    depth: int = 16
    precision: PrecisionChoice = "auto"
    budget: float | None = None
    store_limit: float = 20e9
    class_weight: ClassWeight = "none"
    augment: tuple[str, ...] = ("auto",)
    views: int | None = None
    feature_noise: float = 0.0
    refit: Refit = "auto"
    seed: int = 0
    head: HeadSpec = field(default_factory=HeadSpec)
    phases: tuple[Phase, ...] = field(default_factory=lambda: (Phase(),))

    def __post_init__(self) -> None:
        check_kinds(self, kinds=_KINDS)
        expect(0 <= self.validation < 1, "validation", "a share from 0 to below 1", self.validation)
        size = self.image_size
        expect(size is None or size > 0, "image_size", "pixels, from 1", size)
        expect(8 <= self.depth <= 16, "depth", "bits, from 8 to 16", self.depth)
        expect(self.budget is None or self.budget > 0, "budget", "seconds above 0", self.budget)
        expect(self.store_limit >= 0, "store_limit", "bytes, from 0", self.store_limit)
        expect(self.views is None or self.views > 0, "views", "a whole number from 1", self.views)
        expect(self.feature_noise >= 0, "feature_noise", "a number from 0", self.feature_noise)
        for name in self.augment:
            valid = name in AUGMENTATIONS or self.augment == ("auto",)
            expect(valid, "augment", f"auto, or any of {', '.join(AUGMENTATIONS)}", name)
        expect(self.seed >= 0, "seed", "a whole number from 0", self.seed)
        self._check_networks()

    def _check_networks(self) -> None:
        """Refuse what several networks cannot do; they have no phases that train them."""
        is_auto, latency = self.backbone == AUTO, self.max_latency
        expect(latency is None or is_auto, "max_latency", "none unless backbone is auto", latency)
        expect(latency is None or latency > 0, "max_latency", "milliseconds above 0", latency)
        words = "imagenet for the backbone auto, which takes networks by name"
        expect(not is_auto or self.weights == "imagenet", "weights", words, self.weights)
        count, head = len(self.networks), self.head
        if count == 1:
            return
        for setting in ("weights", "pixels"):
            split_for_each(getattr(self, setting), count, setting)
        words = f"one layer, solved by {', '.join(TAP_SOLVERS)}, for several networks"
        expect(
            self._has_dense_head,
            "head",
            words,
            f"solver {head.solver}, hidden {head.hidden}, pooling {head.pooling}",
        )
        for phase in self.phases:
            words = "none or auto for several networks, which stay frozen"
            expect(phase.unfreeze in ("none", "auto"), "unfreeze", words, phase.unfreeze)
        object.__setattr__(self, "phases", ())

    @property
    def _has_dense_head(self) -> bool:
        return self.head.linear and self.head.solver in TAP_SOLVERS

    @property
    def can_join_networks(self) -> bool:
        """Whether several networks could do what the recipe asks for, with a head of one layer on all."""
        return self._has_dense_head and all(phase.unfreeze in ("none", "auto") for phase in self.phases)

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that `backbone` names, one or several.

        >>> Recipe(backbone="mobilenet_v2,xception").networks
        ('mobilenet_v2', 'xception')
        """
        return split_networks(self.backbone)

    @property
    def seconds(self) -> float:
        """The seconds that all phases together may take."""
        return BUDGET if self.budget is None else self.budget

    @property
    def spare_seconds(self) -> float:
        """The seconds of all phases within which "auto" may add to what the recipe asks for."""
        return SPARE if self.budget is None else self.budget

    @property
    def trains_backbone(self) -> bool:
        """Whether a phase may train more than the head."""
        return any(phase.unfreeze != "none" for phase in self.phases)

    @property
    def needs_gradients(self) -> bool:
        """Whether anything is trained by gradient: a phase, or a head that is not solved.

        >>> Recipe().needs_gradients, Recipe(phases=()).needs_gradients
        (True, False)
        """
        return bool(self.phases) or not self.head.linear or self.head.solver == "gradient"

    @property
    def view_count(self) -> int:
        """The number of versions of a training image that a frozen backbone sees."""
        named = self.augment not in ((), ("auto",))
        return self.views or (VIEWS if named and not self.trains_backbone else 1)

    @property
    def keeps_pixels(self) -> bool:
        """Whether decoded images may be read again after the frozen network has seen them.

        A first phase that trains the head alone needs only its features; one that continues from a solved
        head may be faster on pixels.
        """
        solved = self.head.linear and self.head.solver != "gradient"
        later = self.phases if solved or self.trains_backbone else self.phases[1:]
        return self.view_count > 1 or bool(later)

    def to_toml(self) -> str:
        """Return the recipe as TOML; values that are None, which the program chooses, are left out.

        So are keys that earlier versions do not know, as long as they say nothing.
        """
        import tomli_w

        values = drop_none(asdict(self))
        for table, name in ((values, "weight"), (values["head"], "source")):
            if not table[name]:
                del table[name]
        text: str = tomli_w.dumps(values)
        return text

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from a TOML file.

        Raises:
            UsageError: the file does not exist or is not TOML, a key is unknown, or a value is not valid.
        """
        try:
            values = tomllib.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise UsageError(
                f"Expected a recipe file. Received: {path} ({describe_os_error(error)})."
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not TOML: {error}.") from error
        head = build_settings(HeadSpec, values.pop("head", {}), f"{path}: head")
        tables = values.pop("phases", None)
        recipe = replace(build_settings(cls, values, os.fspath(path)), head=head)
        if tables is None:
            return recipe
        expect(isinstance(tables, list), f"{path}: phases", "a list of tables", tables)
        phases = [
            build_settings(Phase, table, f"{path}: phase {number}") for number, table in enumerate(tables, 1)
        ]
        return replace(recipe, phases=tuple(phases))


@dataclass(frozen=True)
class SearchSpace:
    """The settings that a search tries: all solvers for the head, then each plan with each rate.

    Attributes:
        plans: freeze plans as in a `Phase`; empty for four that the program chooses, from few layers to all.
        learning_rates: learning rates of the head.
        backbone_rates: learning rates of the pre-trained layers, as shares of the head's.
        solvers: solvers of a head without layers of its own, see `HeadSpec.solver`; those that cannot do the
            task are left out.
        epochs: epochs of the longest trials.

    Example:
        >>> SearchSpace(plans=("last:5", "all"), learning_rates=(1e-4,)).make_phases("all")[0].learning_rate
        0.0001
        >>> SearchSpace(learning_rates=())
        Traceback (most recent call last):
        regraft.errors.UsageError: learning_rates: expected one at least. Received: none.
    """

    plans: tuple[str, ...] = ()
    learning_rates: tuple[float, ...] = (1e-3, 3e-4, 3e-3)
    backbone_rates: tuple[float, ...] = (0.3, 0.1)
    solvers: tuple[str, ...] = ("logistic", "ridge", "lda")
    epochs: int = 9

    def __post_init__(self) -> None:
        for name in ("learning_rates", "backbone_rates", "solvers"):
            expect(bool(getattr(self, name)), name, "one at least", "none")
        expect(self.epochs > 0, "epochs", "a whole number from 1", self.epochs)
        for plan in self.plans:
            self.make_phases(plan)
            words = "all, last:N, from:I, stage:NAME or match:REGEX; the head alone is always tried"
            expect(plan not in ("auto", "none"), "plans", words, plan)

    def make_phases(self, plan: str) -> list[Phase]:
        """Return phases that combine a plan with each pair of rates.

        Raises:
            UsageError: the plan or a rate is not valid.
        """
        return [
            Phase(plan, learning_rate=rate, backbone_rate=share, epochs=self.epochs)
            for rate in self.learning_rates
            for share in self.backbone_rates
        ]


Space = SearchSpace  # its earlier name


# Training of a head that cannot be solved, on stored features, if no phase sets it.
HEAD_PHASE = Phase("none", batch_size=32, backbone_rate=1.0, warmup=0.02, patience=8)
