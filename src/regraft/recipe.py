"""`Recipe`: everything a run is told, as frozen values; TOML in and out. Every default is written here, once.

A recipe is checked when it is made, so a bad one fails before any work; and it can be written, read and run
again. It holds settings only, never code.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from regraft.errors import UsageError, nearest

__all__ = ["HeadSpec", "Phase", "Recipe", "parse_duration"]

Pooling = Literal["avg", "max"]
Task = Literal["multiclass"]
AUGMENTATIONS = ("flip", "crop")

_UNFREEZE = re.compile(r"none|all|auto|last:\d+|from:\d+|stage:.+")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)?")
_SECONDS = {None: 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

T = TypeVar("T")


@dataclass(frozen=True)
class HeadSpec:
    """What is put on the backbone: pooling over the feature map, then dropout, then one Dense layer."""

    pooling: Pooling = "avg"
    dropout: float = 0.2

    def __post_init__(self) -> None:
        _check_kinds(self, "head.")
        _expect(0 <= self.dropout < 1, "head.dropout", "a number from 0 to below 1", self.dropout)


@dataclass(frozen=True)
class Phase:
    """One stretch of fine-tuning: how long, how fast, with which augmentation.

    Attributes:
        epochs: passes over the training images; None lets the plan choose within the budget.
        batch_size: images a step.
        learning_rate: peak rate of AdamW for the head.
        backbone_rate: the pre-trained layers' rate, as a share of `learning_rate`.
        warmup: share of all steps during which the rate rises from zero; a cosine falls to zero after it.
        weight_decay: AdamW's.
        patience: epochs without a better one on validation after which it stops.
        augment: any of "flip" (left-right) and "crop" (a random part, enlarged), in training only.
    """

    epochs: int | None = None
    batch_size: int = 16
    learning_rate: float = 1e-3
    backbone_rate: float = 0.3
    warmup: float = 0.1
    weight_decay: float = 1e-4
    patience: int = 5
    augment: tuple[str, ...] = AUGMENTATIONS

    def __post_init__(self) -> None:
        if isinstance(self.augment, list):  # TOML has no tuples
            object.__setattr__(self, "augment", tuple(self.augment))
        _check_kinds(self)
        _expect(self.epochs is None or self.epochs > 0, "epochs", "a whole number from 1", self.epochs)
        _expect(self.batch_size > 0, "batch_size", "a whole number from 1", self.batch_size)
        _expect(self.learning_rate > 0, "learning_rate", "a number above 0", self.learning_rate)
        _expect(0 < self.backbone_rate <= 1, "backbone_rate", "above 0 and up to 1", self.backbone_rate)
        _expect(0 <= self.warmup < 1, "warmup", "a share from 0 to below 1", self.warmup)
        _expect(self.weight_decay >= 0, "weight_decay", "a number from 0", self.weight_decay)
        _expect(self.patience > 0, "patience", "a whole number from 1", self.patience)
        for name in self.augment:
            _expect(name in AUGMENTATIONS, "augment", f"any of {', '.join(AUGMENTATIONS)}", name)


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Attributes:
        data: folder of images, for the record and for running again.
        task: the kind of target.
        validation: share of the training images cut off for validation where none is given.
        backbone: a name of `regraft backbones`, or a `.keras` file.
        weights: "imagenet", a weights file, or the word "random".
        image_size: side of the square the backbone sees, in pixels; None for its own default.
        unfreeze: "none", "all", "last:N", "from:I", "stage:NAME" or "auto".
        budget: seconds that fine-tuning may take.
        seed: of the split, the folds, the order of images, augmentation and dropout.
        head, finetune: see `HeadSpec` and `Phase`.

    Example:
        >>> Recipe(unfreeze="last:20").unfreeze
        'last:20'
        >>> Recipe(seed=-1)
        Traceback (most recent call last):
        regraft.errors.UsageError: seed: expected a whole number from 0. Received: -1.
    """

    data: str = ""
    task: Task = "multiclass"
    validation: float = 0.2
    backbone: str = "mobilenet_v2"
    weights: str = "imagenet"
    image_size: int | None = None
    unfreeze: str = "auto"
    budget: float = 900.0
    seed: int = 0
    head: HeadSpec = field(default_factory=HeadSpec)
    finetune: Phase = field(default_factory=Phase)

    def __post_init__(self) -> None:
        _check_kinds(self)
        _expect(0 < self.validation < 1, "validation", "a share between 0 and 1", self.validation)
        _expect(
            self.image_size is None or self.image_size > 0, "image_size", "pixels, from 1", self.image_size
        )
        plans = "none, all, auto, last:N, from:I or stage:NAME"
        _expect(_UNFREEZE.fullmatch(self.unfreeze) is not None, "unfreeze", plans, self.unfreeze)
        _expect(self.budget > 0, "budget", "seconds above 0", self.budget)
        _expect(self.seed >= 0, "seed", "a whole number from 0", self.seed)

    def to_toml(self) -> str:
        """The recipe as TOML text; values that are None (chosen by the program) are left out."""
        import tomli_w

        return tomli_w.dumps(_without_none(asdict(self)))

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
        finetune = _build(Phase, values.pop("finetune", {}), f"{path}: finetune")
        return replace(_build(cls, values, os.fspath(path)), head=head, finetune=finetune)


def parse_duration(text: str) -> float:
    """Seconds of "90", "90s", "10min" or "1h".

    >>> parse_duration("10min")
    600.0
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if not match or float(match[1]) <= 0:
        raise UsageError(f"Expected a time such as 90s, 10min or 1h. Received: {text}.")
    return float(match[1]) * _SECONDS[match[2]]


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
    float: ((int, float), "a number"),
    tuple[str, ...]: ((tuple,), "a list of texts"),
}


def _check_kinds(settings: object, where: str = "") -> None:
    """Every field holds what its annotation says; a TOML file can hold anything."""
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(hint) is Literal:
            words = " or ".join(f'"{word}"' for word in get_args(hint))
            _expect(value in get_args(hint), where + name, words, value)
        else:
            kinds, words = _KINDS.get(hint, ((hint,), "a table"))
            sound = isinstance(value, kinds) and not isinstance(value, bool)
            _expect(sound and value not in (math.inf, -math.inf), where + name, words, value)


def _expect(holds: bool, name: str, expected: str, received: object) -> None:
    if not holds:
        raise UsageError(f"{name}: expected {expected}. Received: {received}.")


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value)
        if isinstance(value, dict)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in values.items()
        if value is not None
    }
