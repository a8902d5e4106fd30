"""`Recipe`: everything a run is told, as frozen values; TOML in and out. Every default is written here, once.

A recipe is checked when it is made, so a bad one fails before any work; and it can be written, read and run
again. It holds settings only, never code.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from regraft.errors import UsageError, nearest

__all__ = [
    "AUGMENTATIONS",
    "HEAD_PHASE",
    "HeadSpec",
    "Phase",
    "Recipe",
    "Solver",
    "Space",
    "Taps",
    "parse_duration",
    "parse_size",
]

Pooling = Literal["avg", "max", "both", "gem", "attention"]
Attention = Literal["none", "se", "cbam"]
Normalization = Literal["none", "batch", "layer"]
Solver = Literal["auto", "gradient", "logistic", "svm", "svm-rbf", "ridge", "lda", "neighbours", "boosting"]
PrecisionChoice = Literal["auto", "f32", "bf16"]
Taps = Literal["last", "late", "auto"]
ClassWeight = Literal["none", "balanced"]
TaskChoice = Literal["auto", "multiclass", "binary", "multilabel", "regression"]
AUGMENTATIONS = ("flip", "crop", "rotation", "zoom", "colour", "mixup", "cutmix", "randaugment")

VIEWS = 4
TAPPED = ("auto", "gradient", "logistic", "ridge", "lda", "svm")  # solvers whose head is one Dense layer

_UNFREEZE = re.compile(r"none|all|auto|last:\d+|from:\d+|stage:.+|match:.+")
PLANS = "none, all, auto, last:N, from:I, stage:NAME or match:REGEX"
_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}

T = TypeVar("T")


@dataclass(frozen=True)
class HeadSpec:
    """What is put on the backbone: attention, convolutions, pooling, hidden layers, dropout, an output.

    Attributes:
        pooling: of the feature map to one vector: average, maximum, both, generalised mean, attention.
        attention: on the feature map, before all else: squeeze-and-excitation or CBAM.
        convolutions: filters of 3x3 ReLU convolutions before pooling.
        hidden: units of ReLU layers after pooling.
        normalization: of the pooled vector and after each hidden layer.
        dropout: before the output, in training only.
        solver: how the head is found: "gradient", or one of the classical methods, which solve a head without
            weights before its output; "auto" solves where it can be solved.
        taps: where a linear head's features are pooled: at the backbone's output ("last"), at all layers of
            its resolution near the end too ("late"), or at those of the last layers that cross-validation
            chooses ("auto").
    """

    pooling: Pooling = "avg"
    attention: Attention = "none"
    convolutions: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    normalization: Normalization = "none"
    dropout: float = 0.2
    solver: Solver = "auto"
    taps: Taps = "last"

    def __post_init__(self) -> None:
        _check_kinds(self, "head.")
        for name in ("convolutions", "hidden"):
            values = getattr(self, name)
            _expect(all(each > 0 for each in values), f"head.{name}", "whole numbers from 1", values)
        _expect(0 <= self.dropout < 1, "head.dropout", "a number from 0 to below 1", self.dropout)
        fits = self.linear or self.solver in ("auto", "gradient")
        words = "auto or gradient for a head that has more to learn than its output layer"
        _expect(fits, "head.solver", words, self.solver)
        dense = self.linear and self.solver in TAPPED
        words = f"last, or a head whose only layer with weights is its output, by {', '.join(TAPPED)}"
        _expect(self.taps == "last" or dense, "head.taps", words, self.taps)

    @property
    def linear(self) -> bool:
        """Whether the output layer is all there is to learn, so that a classical method can solve the head.

        >>> HeadSpec(pooling="both").linear, HeadSpec(hidden=(64,)).linear
        (True, False)
        """
        plain = self.attention == self.normalization == "none" and self.pooling not in ("gem", "attention")
        return plain and not self.convolutions and not self.hidden


@dataclass(frozen=True)
class Phase:
    """One stretch of training by gradient: what trains, how long, how fast, with which augmentation.

    Attributes:
        unfreeze: the freeze plan: "none" (the head alone), "all", "last:N", "from:I", "stage:NAME",
            "match:REGEX" or "auto" (the deepest that fits the budget); in Python also a function that says
            of a layer whether it trains, which a run records as the names it chose.
        epochs: passes over the training images; None lets the plan choose within the budget.
        batch_size: images a step.
        learning_rate: peak rate of AdamW for the head.
        backbone_rate: the pre-trained layers' rate, as a share of `learning_rate`.
        depth_decay: factor on the rate for each stage further from the head; 1 for one rate in all of them.
        warmup: share of all steps during which the rate rises from zero; a cosine falls to zero after it.
        weight_decay: AdamW's.
        patience: epochs without a better one on validation after which it stops.
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
        _check_kinds(self)
        plan = self.unfreeze
        known = callable(plan) or (isinstance(plan, str) and _UNFREEZE.fullmatch(plan) is not None)
        _expect(known, "unfreeze", PLANS, plan)
        _expect(self.epochs is None or self.epochs > 0, "epochs", "a whole number from 1", self.epochs)
        _expect(self.batch_size > 0, "batch_size", "a whole number from 1", self.batch_size)
        _expect(self.learning_rate > 0, "learning_rate", "a number above 0", self.learning_rate)
        _expect(0 < self.backbone_rate <= 1, "backbone_rate", "above 0 and up to 1", self.backbone_rate)
        _expect(0 < self.depth_decay <= 1, "depth_decay", "above 0 and up to 1", self.depth_decay)
        _expect(0 <= self.warmup < 1, "warmup", "a share from 0 to below 1", self.warmup)
        _expect(self.weight_decay >= 0, "weight_decay", "a number from 0", self.weight_decay)
        _expect(self.patience > 0, "patience", "a whole number from 1", self.patience)


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Attributes:
        data: folder of images, or table that names them, for the record and for running again.
        image, target: columns of the table: image files (several make one sample), what is to be predicted.
        group, split: columns of the table: what never crosses a split; the user's own parts.
        separator: what stands between several labels in one cell.
        task: the kind of target; "auto" tells it from the data and says so.
        validation: share of the training images cut off for validation where none is given; 0 cuts none off.
        backbone: a name of `regraft backbones`, a `.keras` file, a SavedModel's folder or handle, a preset.
        weights: "imagenet", a weights file, or the word "random".
        pixels: the pixels that the user's own backbone expects, see `regraft.backbones.preprocessing`;
            "" if known.
        image_size: side of the square the backbone sees, in pixels; None for its own default.
        phases: training by gradient, in order, after the head was found; none keeps the backbone frozen.
        augment: what is done to training images: any of `AUGMENTATIONS`, or "auto", which is flip and crop
            for labels and nothing for regression, whose targets a changed image may no longer have.
        views: how many versions of a training image what is frozen sees, the image itself included; None for
            4 where the backbone stays frozen and `augment` names something, 1 for a head where it does not,
            and what pays where a phase stores what its frozen part gives.
        feature_noise: relative deviation of the noise on every channel of stored features, drawn anew for
            each sample in every epoch, where gradients train on these: a head, phases on what is stored.
        precision: what a frozen network is computed in; "auto" is bf16 where the processor or GPU has it and
            the user's own images show next to no difference. A run records what it was.
        budget: seconds that all phases together may take.
        store_limit: bytes that the phases of a run may store of what their frozen part gives.
        class_weight: "balanced" weighs samples so that every class, or yes and no of every label, count
            alike.
        seed: of the split, the folds, the order of images, augmentation and dropout.
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
    separator: str = ""
    task: TaskChoice = "auto"
    validation: float = 0.2
    backbone: str = "mobilenet_v2"
    weights: str = "imagenet"
    pixels: str = ""
    image_size: int | None = None
    precision: PrecisionChoice = "auto"
    budget: float = 900.0
    store_limit: float = 20e9
    class_weight: ClassWeight = "none"
    augment: tuple[str, ...] = ("auto",)
    views: int | None = None
    feature_noise: float = 0.0
    seed: int = 0
    head: HeadSpec = field(default_factory=HeadSpec)
    phases: tuple[Phase, ...] = field(default_factory=lambda: (Phase(),))

    def __post_init__(self) -> None:
        _check_kinds(self)
        _expect(0 <= self.validation < 1, "validation", "a share from 0 to below 1", self.validation)
        size = self.image_size
        _expect(size is None or size > 0, "image_size", "pixels, from 1", size)
        _expect(self.budget > 0, "budget", "seconds above 0", self.budget)
        _expect(self.store_limit >= 0, "store_limit", "bytes, from 0", self.store_limit)
        _expect(self.views is None or self.views > 0, "views", "a whole number from 1", self.views)
        _expect(self.feature_noise >= 0, "feature_noise", "a number from 0", self.feature_noise)
        for name in self.augment:
            known = name in AUGMENTATIONS or self.augment == ("auto",)
            _expect(known, "augment", f"auto, or any of {', '.join(AUGMENTATIONS)}", name)
        _expect(self.seed >= 0, "seed", "a whole number from 0", self.seed)

    @property
    def trains_backbone(self) -> bool:
        """Whether some phase may train more than the head."""
        return any(phase.unfreeze != "none" for phase in self.phases)

    @property
    def needs_gradients(self) -> bool:
        """Whether anything trains by gradient: some phase, or a head that is not solved.

        >>> Recipe().needs_gradients, Recipe(phases=()).needs_gradients
        (True, False)
        """
        return bool(self.phases) or not self.head.linear or self.head.solver == "gradient"

    @property
    def view_count(self) -> int:
        """How many versions of a training image a frozen backbone sees."""
        named = self.augment not in ((), ("auto",))
        return self.views or (VIEWS if named and not self.trains_backbone else 1)

    @property
    def keeps_pixels(self) -> bool:
        """Whether decoded images may be read again after the frozen network has seen them.

        A phase of the head alone that finds the head needs its features only; one that goes on from a head
        that was found may be quicker on pixels.
        """
        found = self.head.linear and self.head.solver != "gradient"
        later = self.phases if found or self.trains_backbone else self.phases[1:]
        return self.view_count > 1 or bool(later)

    def to_toml(self) -> str:
        """The recipe as TOML text; values that are None (chosen by the program) are left out."""
        import tomli_w

        text: str = tomli_w.dumps(_without_none(asdict(self)))
        return text

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe.

        Raises:
            UsageError: there is no such file, it is not TOML, a key is unknown or a value cannot be.
        """
        try:
            values = tomllib.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise UsageError(f"Expected a recipe file. Received: {path} ({error.strerror}).") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not TOML: {error}.") from error
        head = _build(HeadSpec, values.pop("head", {}), f"{path}: head")
        listed = values.pop("phases", None)
        recipe = replace(_build(cls, values, os.fspath(path)), head=head)
        if listed is None:
            return recipe
        _expect(isinstance(listed, list), f"{path}: phases", "a list of tables", listed)
        phases = [_build(Phase, each, f"{path}: phase {number}") for number, each in enumerate(listed, 1)]
        return replace(recipe, phases=tuple(phases))


@dataclass(frozen=True)
class Space:
    """What a search chooses from: every plan with every rate, each beginning from the best head.

    Attributes:
        plans: freeze plans as in a `Phase`; empty for four that the program chooses, from a little to all.
        learning_rates: of the head.
        backbone_rates: of the pre-trained layers, as shares of it.
        solvers: of a head without layers of its own; see `HeadSpec.solver`. Those that cannot do the task
            are left out.
        epochs: of the longest attempts.

    Example:
        >>> Space(plans=("last:5", "all"), learning_rates=(1e-4,)).phases("all")[0].learning_rate
        0.0001
        >>> Space(learning_rates=())
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
            _expect(bool(getattr(self, name)), name, "one at least", "none")
        _expect(self.epochs > 0, "epochs", "a whole number from 1", self.epochs)
        for plan in self.plans:
            self.phases(plan)
            words = "all, last:N, from:I, stage:NAME or match:REGEX; the head alone is always tried"
            _expect(plan not in ("auto", "none"), "plans", words, plan)

    def phases(self, plan: str) -> list[Phase]:
        """A plan with each of the rates.

        Raises:
            UsageError: a plan or a rate that cannot be.
        """
        return [
            Phase(plan, learning_rate=rate, backbone_rate=share, epochs=self.epochs)
            for rate in self.learning_rates
            for share in self.backbone_rates
        ]


def parse_duration(text: str) -> float:
    """Seconds of "90", "90s", "10min" or "1h".

    >>> parse_duration("10min")
    600.0
    """
    return _parse_amount(text, _SECONDS, "a time such as 90s, 10min or 1h", above=0)


def parse_size(text: str) -> float:
    """Bytes of "500MB", "10GB" or "0".

    >>> parse_size("10GB")
    10000000000.0
    """
    return _parse_amount(text, _BYTES, "a size such as 500MB or 10GB")


def _parse_amount(text: str, units: dict[str, float], expected: str, above: float = -1) -> float:
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*({'|'.join(units)})?", text.strip().lower())
    if not match or float(match[1]) <= above:
        raise UsageError(f"Expected {expected}. Received: {text}.")
    return float(match[1]) * units.get(match[2], 1.0)


def _build(kind: type[T], values: Any, where: str) -> T:
    _expect(isinstance(values, dict), where, "a table", values)
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key}.{nearest(key, known)}")
    return kind(**values)


_KINDS: dict[object, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a text"),
    int: ((int,), "a whole number"),
    int | None: ((int, type(None)), "a whole number"),
    str | Callable[[Any], bool]: ((object,), PLANS),
    float: ((int, float), "a number"),
    tuple[str, ...]: ((tuple,), "a list of texts"),
    tuple[int, ...]: ((tuple,), "a list of whole numbers"),
    tuple[Phase, ...]: ((tuple,), "a list of phases"),
}


def _check_kinds(settings: object, where: str = "") -> None:
    """Check that every field holds what its annotation says; lists, as TOML has them, become tuples."""
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(hint) is Literal:
            words = " or ".join(f'"{word}"' for word in get_args(hint))
            if value not in get_args(hint):
                close = nearest(str(value), get_args(hint))
                raise UsageError(f"{where}{name}: expected {words}. Received: {value}.{close}")
            continue
        if get_origin(hint) is tuple and isinstance(value, list):
            value = tuple(value)
            object.__setattr__(settings, name, value)
        kinds, words = _KINDS.get(hint, ((hint,), "a table"))
        sound = isinstance(value, kinds) and not isinstance(value, bool)
        if sound and isinstance(value, tuple):
            sound = all(isinstance(each, get_args(hint)[0]) for each in value)
        _expect(sound and value not in (math.inf, -math.inf), where + name, words, value)


def _expect(holds: bool, name: str, expected: str, received: object) -> None:
    if not holds:
        raise UsageError(f"{name}: expected {expected}. Received: {received}.")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, tuple | list) else value


# How a head that cannot be solved is trained on stored features, where no phase says otherwise.
HEAD_PHASE = Phase("none", batch_size=32, backbone_rate=1.0, warmup=0.02, patience=8)
