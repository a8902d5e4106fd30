"""What every stage of a run is given: where things are kept, who is told, and what it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

from regraft.features.store import Store
from regraft.system.console import TERMINAL, Reporter
from regraft.training.journal import Progress

if TYPE_CHECKING:
    from regraft.backbones.load import Backbone
    from regraft.recipe import Space

__all__ = ["Context", "InMemory"]


@dataclass(frozen=True)
class InMemory:
    """What was handed over in Python, which no recipe can hold.

    Attributes:
        backbone: a backbone that is there already; None for the recipe's.
        head: a Keras layer or model, or a scikit-learn estimator; None for the recipe's.
        space: what a search chooses from; None for a run that does as its recipe says.
    """

    backbone: Backbone | None = None
    head: Any = None
    space: Space | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The ones that are there, of "backbone" and "head"."""
        return tuple(name for name in ("backbone", "head") if getattr(self, name) is not None)


@dataclass(frozen=True)
class Context:
    """What every stage of a run is given.

    Attributes:
        store: what was computed before, and where it is kept.
        journal: the decisions and checkpoints of a run that may be resumed.
        reporter: who is told what goes on.
        seconds: what each stage took, in the order in which they ran.
        in_memory: see `InMemory`.
        trust: see `load_backbone`.
    """

    store: Store
    journal: Progress = field(default_factory=Progress)
    reporter: Reporter = TERMINAL
    seconds: dict[str, float] = field(default_factory=dict)
    in_memory: InMemory = InMemory()
    trust: bool = False

    @classmethod
    def open(
        cls, store: str | PathLike[str] | None, *, reporter: Reporter = TERMINAL, **settings: Any
    ) -> Context:
        """Return a context whose store is at a place, or in the user's cache; `settings` are the others."""
        return cls(Store.open(store, reporter), reporter=reporter, **settings)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        begun = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begun
