"""The models that a server has, by name, and their replacement while it runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from regraft.errors import RegraftError, UsageError
from regraft.server.refusals import RequestRefused
from regraft.server.served_model import ServedModel, compute_version
from regraft.system.console import Reporter, format_names

__all__ = ["ModelRegistry", "name_runs"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def name_runs(runs: Sequence[str]) -> dict[str, Path]:
    """Return run folders by the names of their models: the folder's own, or NAME of NAME=FOLDER.

    Raises:
        UsageError: two runs have one name, or a name is none for an address.

    >>> list(name_runs(["runs/clothes", "old=runs/2024/clothes"]))
    ['clothes', 'old']
    """
    folders: dict[str, Path] = {}
    for run in runs:
        name, separator, path = run.partition("=")
        folder = Path(path if separator and not Path(run).exists() else run)
        name = name if separator and not Path(run).exists() else folder.absolute().name
        if not _NAME.fullmatch(name):
            raise UsageError(
                "Expected a model's name of letters, digits, dots, dashes and underscores, because it is "
                f"part of addresses. Received: {name!r}. Give another one: NAME={folder}"
            )
        if name in folders:
            raise UsageError(
                f"Expected a different name for each model. Received: {folders[name]} and {folder}, both "
                f"called {name}. Give another one: NAME={folder}"
            )
        folders[name] = folder
    return folders


class ModelRegistry:
    """The models of a server; the first one answers where a request names none.

    Args:
        folders: run folders by name.
        trust: load SavedModels, too.
        reporter: is told what was loaded, and what a run cannot tell.
    """

    def __init__(self, folders: dict[str, Path], *, trust: bool = False, reporter: Reporter) -> None:
        self._folders, self._trust, self._reporter = dict(folders), trust, reporter
        self._models: dict[str, ServedModel] = {}

    @property
    def names(self) -> list[str]:
        """The names of all models."""
        return list(self._folders)

    @property
    def models(self) -> list[ServedModel]:
        """The models that are loaded."""
        return list(self._models.values())

    def load(self) -> None:
        """Load every model.

        Raises:
            UsageError, ModelRefused, EnvironmentFault: one of them cannot be served.
        """
        for name, folder in self._folders.items():
            self._models[name] = self._open(name, folder)

    def reload(self) -> tuple[list[str], list[str]]:
        """Load every run that changed, and replace its model; one that cannot be loaded stays as it is.

        Requests under way end with the model that they began with.

        Returns:
            The names of the models that were replaced, and of those whose new run cannot be served.
        """
        replaced, failed = [], []
        for name, folder in self._folders.items():
            try:
                if compute_version(folder) == self._models[name].version:
                    continue
                self._models[name] = self._open(name, folder)
                replaced.append(name)
            except (RegraftError, OSError, ValueError) as error:
                self._reporter.warn(f"{name} is not reloaded, its old model goes on: {error}")
                failed.append(name)
        return replaced, failed

    def get(self, name: str | None = None) -> ServedModel:
        """Return a model; the first one without a name.

        Raises:
            RequestRefused: there is none of this name, or it is not loaded yet.
        """
        name = name or next(iter(self._folders))
        if name not in self._folders:
            known_names = format_names(self._folders)
            raise RequestRefused(404, "unknown_model", f"expected one of these models: {known_names}")
        if name not in self._models:
            raise RequestRefused(503, "not_ready", "the model is still being loaded")
        return self._models[name]

    def _open(self, name: str, folder: Path) -> ServedModel:
        model = ServedModel.open(name, folder, trust=self._trust, reporter=self._reporter)
        for gap in model.lacks:
            self._reporter.warn(f"{name} {gap}.")
        if model.bundle.graph is None:
            self._reporter.warn(
                f"{name} has no graph for OpenVINO, so Keras runs it: it starts more slowly and takes more "
                "memory. Train it again, with OpenVINO installed, to have one."
            )
        return model
