"""The context of a run: its store, journal, reporter, timings, and objects passed in from Python."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

from regraft.features.store import Store
from regraft.system.console import TERMINAL, Reporter
from regraft.training.journal import RunJournal

if TYPE_CHECKING:
    from regraft.backbones.load import Backbone
    from regraft.recipe import SearchSpace

__all__ = ["Context", "InMemory"]


@dataclass(frozen=True)
class InMemory:
    """Objects passed in from Python, which no recipe can hold.

    Attributes:
        backbone: a loaded backbone; None for the recipe's.
        head: a Keras layer or model, or a scikit-learn estimator; None for the recipe's.
        space: the space of a search; None for a run that follows its recipe.
    """

    backbone: Backbone | None = None
    head: Any = None
    space: SearchSpace | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the objects passed in, of "backbone" and "head"."""
        return tuple(name for name in ("backbone", "head") if getattr(self, name) is not None)


@dataclass(frozen=True)
class Context:
    """What every stage of a run needs besides its input.

    Attributes:
        store: results computed before, and where new ones are written.
        journal: the decisions and checkpoints of a run that may be resumed.
        reporter: receives progress, notes and warnings.
        seconds: the duration of each stage, in the order in which they ran.
        in_memory: see `InMemory`.
        trust: see `load_backbone`.
        has_forecast: whether a run measures what more images would bring.
    """

    store: Store
    journal: RunJournal = field(default_factory=RunJournal)
    reporter: Reporter = TERMINAL
    seconds: dict[str, float] = field(default_factory=dict)
    in_memory: InMemory = InMemory()
    trust: bool = False
    has_forecast: bool = True

    @classmethod
    def open(
        cls, store: str | PathLike[str] | None, *, reporter: Reporter = TERMINAL, **settings: Any
    ) -> Context:
        """Return a context with the store in a folder, None for the user's cache; `settings` are fields."""
        return cls(Store.open(store, reporter), reporter=reporter, **settings)

    @contextmanager
    def time_stage(self, name: str) -> Iterator[None]:
        """Record how long the block takes as the duration of a stage, and tell the reporter."""
        start = time.monotonic()
        self.reporter.start_stage(name)
        yield
        self.seconds[name] = time.monotonic() - start
        self.reporter.end_stage(name, self.seconds[name])
