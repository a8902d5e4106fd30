"""Options that several commands share, above all those that set fields of a recipe; each is written once."""

from __future__ import annotations

import csv
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from regraft.cli.amounts import parse_duration, parse_size
from regraft.errors import UsageError
from regraft.recipe import AUGMENTATIONS, BUDGET, PLANS, SPARE, HeadSpec, Phase, Recipe

__all__ = [
    "DATA",
    "DataArgument",
    "JsonFlag",
    "RecipeFile",
    "RunArgument",
    "RunFolder",
    "StoreOption",
    "TrustFlag",
    "make_recipe",
    "split_columns",
    "split_commas",
    "with_settings",
]

DATA = typer.Argument(help="Folder of class folders, or of train, validation and test; or a table.")
DataArgument = Annotated[Path, DATA]
RunArgument = Annotated[Path, typer.Argument(help="Run folder that `regraft train` wrote.")]
RunFolder = Annotated[Path, typer.Option("--out", "-o", help="Run folder to create.")]
RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", help="Recipe file to start from; other options override it. [default: none]"),
]
TrustFlag = Annotated[
    bool, typer.Option("--trust", help="Load SavedModels, which are programs: only if you know their source.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, for programs.")]
StoreOption = Annotated[
    Path | None,
    typer.Option(help="Folder of computed features. [default: $REGRAFT_HOME, or the user's cache]"),
]

# Help texts of fields of `Recipe`, `HeadSpec` and `Phase`. {} stands for the choices of a Literal; the
# field's default is appended, unless the text names one in words.
_HELP = {
    "image": "Columns of a table with image files, comma-separated; several make one sample.",
    "target": "Columns of a table to predict, comma-separated; a name with a comma in quotes.",
    "group": "Column of group IDs (patient, scene); a group is never split across parts.",
    "split": "Column that assigns rows to parts: train, validation or test.",
    "weight": "Column of a table with the weight of each image in training; scores count all alike. "
    "[default: all alike]",
    "separator": 'Separator between labels in a cell, such as "|".',
    "root": "Folder that the paths in a table are relative to. [default: the table's folder]",
    "slice": "Columns of a table to report scores by, comma-separated, such as hospital or camera.",
    "task": "Kind of target: {}; auto detects it from the data.",
    "backbone": "Backbone: a name from `regraft backbones`, a .keras file, a SavedModel's folder or handle, "
    "or a preset kerashub:NAME.",
    "max_latency": "Milliseconds an image that the networks may take on this machine, 1000 divided by "
    "recommend's images/s. [default: any]",
    "weights": "Weights of the backbone: imagenet, a file, or random; your own backbone brings its own.",
    "pixels": "Pixel values that your own backbone expects: raw, unit, tf, torch or caffe. [default: raw]",
    "classifier": "Classifier at the end of your own backbone: {}; auto cuts off what is plainly one.",
    "image_size": "Input size in pixels. [default: the backbone's]",
    "depth": "Bits that 16-bit files use, such as 12 if white is 4095.",
    "unfreeze": f"Layers to fine-tune: {PLANS}; once for each phase.",
    "learning_rate": "Peak learning rate of the head; once, or once for each phase.",
    "epochs": "Epochs; once, or once for each phase. [default: as many as fit the budget]",
    "budget": f"Time for training, such as 90s, 10min or 1h. [default: {BUDGET / 60:g}min; deeper plans and "
    f"the refit only within {SPARE:g}s]",
    "precision": "Precision of the frozen network: {}; auto compares the two.",
    "store_limit": "Space for stored outputs of the frozen layers of phases, such as 500MB or 10GB. "
    f"[default: {Recipe.store_limit / 1e9:g}GB]",
    "augment": f"Augmentations, comma-separated, or none: {', '.join(AUGMENTATIONS)}. "
    "[default: flip,crop for labels, none for numbers]",
    "views": "Augmented views of each training image that pass through the frozen layers. [default: up to 4]",
    "feature_noise": "Relative noise on stored features that are trained on by gradient.",
    "class_weight": "Weights of classes and labels: {}; balanced is inverse to their frequency.",
    "solver": "Solver of the head: {}.",
    "hidden": "Units of the head's hidden layers, such as 512 or 512,128.",
    "pooling": "Pooling of the feature map: {}.",
    "taps": "Layers whose features a solved head uses: {}; auto chooses by cross-validation.",
    "refit": "Whether the final model also learns from the validation images, after its scores: {}.",
    "seed": "Random seed, for the split and for training.",
}


def split_commas(text: str) -> tuple[str, ...]:
    """Return the items of a comma-separated list; "none" is the empty list."""
    return () if text == "none" else tuple(item.strip() for item in text.split(",") if item.strip())


def split_columns(text: str) -> tuple[str, ...]:
    """Return the names of a comma-separated list of columns; those with commas stand in double quotes.

    >>> split_columns('weight,"size, mm"')
    ('weight', 'size, mm')
    """
    names = next(csv.reader([text], skipinitialspace=True), [])
    return tuple(name.strip() for name in names if name.strip())


def _parse_units(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in split_commas(text))
    except ValueError as error:
        raise UsageError(f"hidden: expected whole numbers such as 512,128. Received: {text}.") from error


_PARSERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("image", "target", "slice"), split_columns),
    "augment": split_commas,
    "hidden": _parse_units,
    "budget": parse_duration,
    "store_limit": parse_size,
}


def with_settings(*names: str, **helps: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of these fields; the values that were given are its `settings`.

    Args:
        names: fields of `Recipe`, `HeadSpec` or `Phase`.
        helps: help texts, by field, if a field means something else to this command.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            values = {name: arguments.pop(name) for name in names}
            settings = {name: value for name, value in values.items() if value not in (None, [])}
            command(**arguments, settings=settings)

        signature = inspect.signature(command, eval_str=True)
        parameters = []
        for parameter in signature.parameters.values():
            if parameter.name == "settings":
                parameters += [_make_parameter(name, helps.get(name)) for name in names]
            else:
                parameters.append(parameter)
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _make_parameter(name: str, text: str | None) -> inspect.Parameter:
    """Return the option of a field as typer reads it: its type, its help text and the field's default."""
    kind = next(kind for kind in (Recipe, HeadSpec, Phase) if name in kind.__dataclass_fields__)
    hint, value = _get_hints(kind)[name], kind.__dataclass_fields__[name].default
    option: Any = next((number for number in (int, float) if hint in (number, number | None)), str)
    if name in _PARSERS:
        option = str
    if kind is Phase:
        option = GenericAlias(list, (option,))
    text = text or _HELP[name]
    if get_origin(hint) is Literal:
        *choices, last = get_args(hint)
        text = text.format(f"{', '.join(choices)} or {last}")
    if "[default:" not in text:
        text += f" [default: {'none' if value in ('', ()) else f'{value:g}' if option is float else value}]"
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=typer.Option(None, help=text),
        annotation=option | None,
    )


_get_hints = functools.cache(get_type_hints)


def make_recipe(settings: Mapping[str, Any], start: Path | None = None) -> Recipe:
    """Return a recipe with the settings that a command received.

    Args:
        settings: by field of `Recipe`, `HeadSpec` or `Phase`; those of phases are lists.
        start: recipe file to start from; None for the defaults.

    Raises:
        UsageError: the file cannot be read, or a setting is not valid.
    """
    recipe = Recipe.from_toml(start) if start else Recipe()
    values = {name: _PARSERS[name](value) if name in _PARSERS else value for name, value in settings.items()}
    head = {field.name: values.pop(field.name) for field in fields(HeadSpec) if field.name in values}
    phases = {field.name: values.pop(field.name) for field in fields(Phase) if field.name in values}
    return replace(
        recipe, **values, head=replace(recipe.head, **head), phases=_make_phases(recipe.phases, phases)
    )


def _make_phases(phases: tuple[Phase, ...], settings: dict[str, list[Any]]) -> tuple[Phase, ...]:
    """Replace phases by one for each plan of `unfreeze`, and set the other fields of one phase or all."""
    plans = settings.pop("unfreeze", None)
    if plans == ["none"] and not settings:
        return ()  # only the head is trained, with its own defaults
    if plans:
        phases = tuple(Phase(plan) for plan in plans)
    for name, values in settings.items():
        if len(values) not in (1, len(phases)):
            option = name.replace("_", "-")
            raise UsageError(
                f"--{option}: expected one, or one for each of {len(phases)} phases. Received: {len(values)}."
            )
        changes = [{name: value} for value in values] * (len(phases) if len(values) == 1 else 1)
        phases = tuple(replace(phase, **change) for phase, change in zip(phases, changes, strict=True))
    return phases
