"""The file of a run folder that holds what is needed to tell how sure an answer is."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import ModelRefused
from regraft.uncertainty.conformal import Conformal, fit_conformal, restore_conformal
from regraft.uncertainty.familiarity import Familiarity, fit_familiarity
from regraft.uncertainty.held_out import HeldOutAnswers, ReferenceImages

__all__ = ["UNCERTAINTY", "Uncertainty", "fit_uncertainty", "read_uncertainty", "write_uncertainty"]

UNCERTAINTY = "uncertainty.npz"  # its name in a run folder

CONFORMAL, FAMILIARITY = "conformal_", "familiarity_"  # prefixes of the names of arrays

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Uncertainty:
    """What a run knows about the reliability of its answers; a part that could not be fitted is None.

    Attributes:
        conformal: prediction sets or intervals.
        familiarity: how familiar an image is, and the training images nearest to it.
    """

    conformal: Conformal | None = None
    familiarity: Familiarity | None = None

    def to_arrays(self) -> Arrays:
        """Return all parts as arrays; the names begin with the part's name."""
        parts = {CONFORMAL: self.conformal, FAMILIARITY: self.familiarity}
        return {
            prefix + name: values
            for prefix, part in parts.items()
            if part is not None
            for name, values in part.to_arrays().items()
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Uncertainty:
        """Return the parts that arrays from `to_arrays` hold; no familiarity of earlier versions."""
        familiarity = _take_part(arrays, FAMILIARITY)
        return cls(
            restore_conformal(_take_part(arrays, CONFORMAL)),
            None if not familiarity or "ranks" in familiarity else Familiarity.from_arrays(familiarity),
        )


def fit_uncertainty(
    held_out: HeldOutAnswers | None,
    reference: ReferenceImages | None,
    *,
    task: str,
    labels: Sequence[str] = (),
    seed: int,
) -> Uncertainty:
    """Fit every part on what a run learnt.

    Args:
        held_out: None if there is no image that the model has not learnt from.
        reference: None if the model has no features.
        task: one of `tasks.TASKS`.
        labels: the target of each reference image as text.
        seed: random seed.
    """
    familiarity = None
    if reference is not None:
        familiarity = fit_familiarity(held_out, reference, task=task, labels=labels, seed=seed)
    return Uncertainty(fit_conformal(held_out, task=task, seed=seed), familiarity)


def _take_part(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


def write_uncertainty(uncertainty: Uncertainty, path: Path) -> None:
    """Write the parts to an `.npz` file; to compress it would take half a second and save a quarter."""
    np.savez(path, allow_pickle=False, **uncertainty.to_arrays())


def read_uncertainty(path: Path) -> Uncertainty:
    """Read what `write_uncertainty` wrote.

    Raises:
        ModelRefused: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Uncertainty.from_arrays({name: stored[name] for name in stored.files})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as fault:
        raise ModelRefused(f"{path} does not hold what it should: {fault}.") from fault
