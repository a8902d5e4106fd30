"""The command line: options -> one call -> print -> exit code.

Exit codes: 0 done, 1 unexpected error, 2 usage, 3 data refused, 4 environment, 5 model refused, 130 Ctrl-C,
143 SIGTERM.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.console import print_table, say
from regraft.errors import EnvironmentFault, ModelRefused, RegraftError, UsageError
from regraft.imports import end_at_once, left_out_of_keras
from regraft.recipe import AUGMENTATIONS, Phase
from regraft.signals import exit_code, terminable

if TYPE_CHECKING:
    from regraft.checkup import Checkup
    from regraft.deploy.bundle import Prediction
    from regraft.deploy.inspection import Inspection

__all__ = ["app", "main"]

INTERRUPTED = 130  # exit code of typer's
SHOWN = 5  # cases of a problem

app = typer.Typer(
    help="Transfer learning for images on Keras 3. What is frozen is computed once.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, for programs.")]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of computed features. Default: the user's cache, or $REGRAFT_HOME."),
]


def main() -> None:
    """Run the command line. The only place that catches: one message to standard error, one exit code."""
    _silence_native_code()
    left_out_of_keras()
    end_at_once()
    try:
        with terminable():
            code = app(standalone_mode=False) or 0
        if code == INTERRUPTED:  # typer's word for Ctrl-C
            say("regraft: interrupted. What was computed is in the store and is not computed again.")
            code = exit_code()
        sys.exit(code)
    except RegraftError as error:
        say(f"regraft: {error}", style="red")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        show = getattr(error, "show", None)  # click's own usage errors
        if show is None:
            raise
        show()
        sys.exit(2)


def _silence_native_code() -> None:
    """TensorFlow greets from C++ on descriptor 2, past every setting; Python keeps its own copy of it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "REGRAFT_NATIVE_LOGS" in os.environ:
        return
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


@app.command()
def train(  # noqa: PLR0917 - typer reads the options off the signature
    data: Annotated[
        Path | None,
        typer.Argument(help="Folder of class folders, or one with train, validation and test; or a table."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder to make.")] = Path("run"),
    recipe: Annotated[
        Path | None, typer.Option(help="recipe.toml to start from; other options override it.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Column of the table with image files; several make one sample.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column or columns to predict, by commas.")] = None,
    group: Annotated[str | None, typer.Option(help="Column whose groups no split tears apart.")] = None,
    split: Annotated[str | None, typer.Option(help="Column that says train, validation or test.")] = None,
    separator: Annotated[str | None, typer.Option(help="What stands between labels in one cell.")] = None,
    task: Annotated[
        str | None, typer.Option(help="multiclass, binary, multilabel or regression. [told from the data]")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="A name of `regraft backbones`, a .keras file, a SavedModel's folder or handle, or a preset "
            "kerashub:NAME. [mobilenet_v2]"
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="imagenet, a file, or random. [imagenet]")] = None,
    pixels: Annotated[
        str | None, typer.Option(help="What your own backbone expects: raw, unit, tf, torch or caffe. [raw]")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels the backbone sees. [the backbone's own]")
    ] = None,
    unfreeze: Annotated[
        list[str] | None,
        typer.Option(
            help="none, all, last:N, from:I, stage:NAME, match:REGEX or auto; once for each phase. [auto]"
        ),
    ] = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="Peak rate of the head; once, or once for each phase. [0.001]")
    ] = None,
    epochs: Annotated[
        list[int] | None, typer.Option(help="Passes; once, or once for each phase. [what the budget holds]")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time that training may take, such as 90s, 10min, 1h. [15min]")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of the frozen network: f32, bf16 or auto, which compares them. [auto]")
    ] = None,
    store_limit: Annotated[
        str | None,
        typer.Option(help="What phases may store of their frozen part, such as 500MB or 10GB. [20GB]"),
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help=f"Any of {','.join(AUGMENTATIONS)}, or none. [flip,crop for labels]")
    ] = None,
    views: Annotated[
        int | None, typer.Option(help="Versions of an image that what is frozen sees. [up to 4, or 1]")
    ] = None,
    feature_noise: Annotated[
        float | None,
        typer.Option(help="Relative noise on channels of stored features that gradients train on. [0]"),
    ] = None,
    class_weight: Annotated[
        str | None, typer.Option(help="balanced: rare classes or labels count as much. [none]")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="Of the head: logistic, ridge, svm, svm-rbf, lda, neighbours, boosting or gradient. [auto]"
        ),
    ] = None,
    hidden: Annotated[
        str | None, typer.Option(help="Units of hidden layers of the head, such as 512 or 512,128. [none]")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="avg, max, both, gem or attention. [avg]")] = None,
    taps: Annotated[
        str | None,
        typer.Option(
            help="Layers whose features the head sees: last, late or auto (chosen from the last). [last]"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the split and of everything random. [0]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in OUT.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same command was stopped or killed.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Train a model on a folder or table of images and write a run folder with model, report and scores."""
    from regraft.recipe import Recipe, parse_duration, parse_size
    from regraft.run import train as run_recipe

    start = Recipe.from_toml(recipe) if recipe else Recipe()
    source = data or (Path(start.data) if start.data else None)
    if source is None:
        raise UsageError(
            "Expected a folder or table of images, or a recipe that names one. Received: neither."
        )
    head = {"solver": solver, "hidden": _whole_numbers(hidden), "pooling": pooling, "taps": taps}
    chosen = {
        "image": _names(image),
        "target": _names(target),
        "group": group,
        "split": split,
        "separator": separator,
        "task": task,
        "backbone": backbone,
        "weights": weights,
        "pixels": pixels,
        "image_size": image_size,
        "phases": _phases(start.phases, unfreeze, learning_rate, epochs),
        "budget": None if budget is None else parse_duration(budget),
        "precision": precision,
        "store_limit": None if store_limit is None else parse_size(store_limit),
        "augment": _names(augment),
        "views": views,
        "feature_noise": feature_noise,
        "class_weight": class_weight,
        "head": replace(start.head, **_given(head)),
        "seed": seed,
    }
    settings = replace(start, **_given(chosen))
    run = run_recipe(source, settings, out, overwrite=overwrite, resume=resume, store=store)
    _print_scores(run.metrics)
    print(f"Report: {run.path / 'report.html'}")
    if run.interrupted:
        sys.exit(exit_code())


@app.command()
def search(  # noqa: PLR0917 - typer reads the options off the signature
    data: Annotated[Path, typer.Argument(help="Folder of class folders, or a table, as for train.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder to make.")] = Path("run"),
    budget: Annotated[str, typer.Option(help="Time that the search may take, such as 30min.")] = "30min",
    unfreeze: Annotated[
        list[str] | None,
        typer.Option(help="A plan to try, as for train; once for each. [four, from a little to all]"),
    ] = None,
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(help="Peak rate of the head to try; once for each. [0.001, 0.0003, 0.003]"),
    ] = None,
    backbone_rate: Annotated[
        list[float] | None,
        typer.Option(help="Rate of pre-trained layers to try, as a share of it; once for each. [0.3, 0.1]"),
    ] = None,
    solver: Annotated[
        list[str] | None, typer.Option(help="Of the head, to try; once for each. [logistic, ridge, lda]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of the longest attempts. [9]")] = None,
    recipe: Annotated[Path | None, typer.Option(help="recipe.toml for everything else.")] = None,
    image: Annotated[str | None, typer.Option(help="Column of the table with image files.")] = None,
    target: Annotated[str | None, typer.Option(help="Column or columns to predict, by commas.")] = None,
    separator: Annotated[str | None, typer.Option(help="What stands between labels in one cell.")] = None,
    task: Annotated[str | None, typer.Option(help="As for train. [told from the data]")] = None,
    backbone: Annotated[str | None, typer.Option(help="As for train. [mobilenet_v2]")] = None,
    weights: Annotated[str | None, typer.Option(help="imagenet, a file, or random. [imagenet]")] = None,
    pixels: Annotated[str | None, typer.Option(help="What your own backbone expects. [raw]")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels the backbone sees. [the backbone's own]")
    ] = None,
    augment: Annotated[str | None, typer.Option(help="As for train. [flip,crop for labels]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the split and of everything random. [0]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in OUT.")] = False,
    store: StoreOption = None,
) -> None:
    """Find how many layers to train, at which rates, on which head; write the best as a run folder."""
    from regraft.recipe import Recipe, parse_duration
    from regraft.run import search as run_search
    from regraft.space import Space

    start = Recipe.from_toml(recipe) if recipe else Recipe()
    chosen = {
        "image": _names(image),
        "target": _names(target),
        "separator": separator,
        "task": task,
        "backbone": backbone,
        "weights": weights,
        "pixels": pixels,
        "image_size": image_size,
        "budget": parse_duration(budget),
        "augment": _names(augment),
        "seed": seed,
    }
    lists = {
        "plans": unfreeze,
        "learning_rates": learning_rate,
        "backbone_rates": backbone_rate,
        "solvers": solver,
    }
    named = {name: tuple(values) for name, values in lists.items() if values}
    space = replace(Space(), **named, **_given({"epochs": epochs}))  # type: ignore[arg-type]
    run = run_search(
        data, replace(start, **_given(chosen)), out, space=space, overwrite=overwrite, store=store
    )
    _print_attempts(run.metrics["search"])
    _print_scores(run.metrics)
    print(f"Report: {run.path / 'report.html'}")
    if run.interrupted:
        sys.exit(exit_code())


def _print_attempts(attempts: list[dict[str, Any]]) -> None:
    """What a search tried, the model first."""
    header = ("unfreeze", "head", "rate", "backbone rate", "epochs", "loss", "score", "seconds")
    rows = [
        (
            each["unfreeze"],
            each["head"],
            *(
                "-" if each[name] is None else f"{each[name]:g}"
                for name in ("learning_rate", "backbone_rate")
            ),
            str(each["epochs"] or "-"),
            f"{each['val_loss']:.4f}",
            f"{each['val_score']:.3f}",
            f"{each['seconds']:.0f}",
        )
        for each in sorted(attempts, key=lambda each: (not each["kept"], each["val_loss"]))
    ]
    print_table(header, rows)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder that `regraft train` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    as_json: Json = False,
) -> None:
    """Say what images show: label and probability. A bad image is named with the reason."""
    from regraft.data.catalog import Refused
    from regraft.deploy.bundle import load

    for answer in load(run).predict(images):
        if as_json:
            line = (
                {"image": answer.image, "refused": answer.code}
                if isinstance(answer, Refused)
                else {**asdict(answer), "label": answer.label}
            )
            print(json.dumps(line), flush=True)
        elif isinstance(answer, Refused):
            print(f"{_safe(answer.image)}\trefused: {answer.code} ({answer.detail})")
        else:
            print(f"{_safe(answer.image)}\t{_answer(answer)}")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder that `regraft train` wrote.")],
    data: Annotated[Path, typer.Argument(help="Folder of class folders, as for train.")],
    as_json: Json = False,
) -> None:
    """Score a trained model on labelled images, each part of them by itself."""
    from regraft.deploy.bundle import load

    found = load(run).evaluate(data)
    scores = {
        item.part: {"n": item.n, **{name: asdict(score) for name, score in item.scores.items()}}
        for item in found
    }
    refused = [asdict(item) for item in found[0].refused] if found else []
    if as_json:
        print(json.dumps({**scores, "refused": refused}))
    else:
        _print_scores(scores)
        for item in refused:
            print(f"Refused {_safe(item['image'])}: {item['code']} ({item['detail']})")


@app.command()
def embed(  # noqa: PLR0917 - typer reads the options off the signature
    data: Annotated[
        Path, typer.Argument(help="Folder of images, with or without class folders; or a table.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to make: .parquet, .csv, .npz or .npy.")
    ] = Path("features.parquet"),
    image: Annotated[str | None, typer.Option(help="Column of the table with image files.")] = None,
    target: Annotated[str | None, typer.Option(help="Column to copy as the class. [none]")] = None,
    backbone: Annotated[str | None, typer.Option(help="As for train. [mobilenet_v2]")] = None,
    weights: Annotated[str | None, typer.Option(help="imagenet, a file, or random. [imagenet]")] = None,
    pixels: Annotated[str | None, typer.Option(help="What your own backbone expects. [raw]")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels the backbone sees. [the backbone's own]")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="avg, max or both. [avg]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier OUT.")] = False,
    store: StoreOption = None,
) -> None:
    """Write the frozen backbone's features of images to a file, a row an image."""
    from regraft.embedding import embed as embed_images
    from regraft.recipe import HeadSpec, Recipe

    chosen = {
        "image": _names(image),
        "target": _names(target),
        "backbone": backbone,
        "weights": weights,
        "pixels": pixels,
        "image_size": image_size,
        "head": None if pooling is None else HeadSpec(pooling=pooling),  # type: ignore[arg-type]
    }
    found = embed_images(data, replace(Recipe(), **_given(chosen)), out, overwrite=overwrite, store=store)
    print(f"{_safe(str(found.path))}: {found.images:,} images, {found.features:,} features each")


@app.command()
def recommend(  # noqa: PLR0917 - typer reads the options off the signature
    data: Annotated[Path, typer.Argument(help="Folder of class folders, or a table, as for train.")],
    backbones: Annotated[
        str | None,
        typer.Option(help="Those to try, by commas, each as for train. [one of each kind, seven]"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="imagenet, a file, or random; once, or once each, by commas. [imagenet]"),
    ] = None,
    sample: Annotated[int, typer.Option(min=4, help="Images to look at, of every class its share.")] = 1000,
    image: Annotated[str | None, typer.Option(help="Column of the table with image files.")] = None,
    target: Annotated[str | None, typer.Option(help="Column or columns to predict, by commas.")] = None,
    group: Annotated[str | None, typer.Option(help="Column whose groups no fold tears apart.")] = None,
    split: Annotated[str | None, typer.Option(help="Column that says train, validation or test.")] = None,
    separator: Annotated[str | None, typer.Option(help="What stands between labels in one cell.")] = None,
    task: Annotated[str | None, typer.Option(help="As for train. [told from the data]")] = None,
    pixels: Annotated[str | None, typer.Option(help="What your own backbones expect. [raw]")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels the backbones see. [each backbone's own]")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="avg, max or both. [avg]")] = None,
    as_json: Json = False,
    store: StoreOption = None,
) -> None:
    """Rank backbones on your own images, before anything is trained. What they computed is kept for train."""
    from regraft.recipe import HeadSpec, Recipe
    from regraft.recommendation import BACKBONES
    from regraft.recommendation import recommend as rank

    chosen = {
        "image": _names(image),
        "target": _names(target),
        "group": group,
        "split": split,
        "separator": separator,
        "task": task,
        "pixels": pixels,
        "image_size": image_size,
        "head": None if pooling is None else HeadSpec(pooling=pooling),  # type: ignore[arg-type]
    }
    found = rank(
        data,
        replace(Recipe(), **_given(chosen)),
        backbones=_names(backbones) or BACKBONES,
        weights=_names(weights) or "imagenet",
        sample=sample,
        store=store,
    )
    if as_json:
        print(json.dumps(asdict(found)))
        return
    rows = [
        (
            each.backbone,
            f"{each.score:.3f}",
            f"{each.logme:.3f}",
            f"{each.h_score:.2f}",
            f"{each.images_per_second:.0f}",
            f"{each.parameters / 1e6:.1f}",
            f"{each.megabytes:.0f}",
            str(each.image_size),
        )
        for each in found.ranked
    ]
    header = ("backbone", found.score_name, "LogME", "H-score", "images/s", "params M", "MB", "px")
    print_table(header, rows)
    for each in found.left_out:
        print(f"Left out: {_safe(each.backbone)}: {_safe(each.reason)}")
    print(_safe(found.advice))
    print(f"Next: {_safe(found.command)}")


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="A .keras file, or a run folder.")],
    as_json: Json = False,
) -> None:
    """Say what a model file holds without opening it in Keras; exit 5 if it would be refused."""
    from regraft.deploy.inspection import inspect as look

    found = look(model)
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        _print_inspection(found)
    if found.suspicious or found.changed:
        sys.exit(ModelRefused.exit_code)


def _print_inspection(found: Inspection) -> None:
    print(f"{_safe(found.file)}: {found.bytes:,} bytes, sha256 {found.sha256}")
    print(f"saved by    {_safe(found.saved_by)}")
    for name, shape in found.inputs:
        print(f"takes       {_safe(name)} {_safe(str(shape))}")
    print(f"gives       {_safe(', '.join(found.outputs))}")
    print(f"parameters  {found.parameters:,} in {_safe(', '.join(found.types))}")
    for digest in found.savedmodels:
        print(f"SavedModel  sha256 {_safe(digest)}, a program that has to be trusted")
    if found.kinds:
        rows = [
            (_safe(kind.name), str(kind.layers), f"{kind.parameters:,}", kind.package) for kind in found.kinds
        ]
        print_table(("layers", "number", "parameters", "package"), rows)
    if found.manifest is not None:
        for name in ("task", "outputs", "backbone", "head", "trained", "versions"):
            print(f"{name:<11} {_safe(json.dumps(found.manifest[name], ensure_ascii=False))}")
        for name in found.manifest["files"]:
            print(f"{'CHANGED' if name in found.changed else 'unchanged':<11} {_safe(name)}")
    for reason in found.suspicious:
        print(f"REFUSED     {_safe(reason)}")
    if not found.suspicious:
        print("Nothing in it is suspicious.")


@app.command()
def check(  # noqa: PLR0917 - typer reads the options off the signature
    data: Annotated[Path, typer.Argument(help="Folder of class folders, or a table, as for train.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to make, with check.html and check.json.")
    ] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", help="File to write JSON to; - for standard output.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Column of the table with image files.")] = None,
    target: Annotated[str | None, typer.Option(help="Column or columns to predict, by commas.")] = None,
    group: Annotated[str | None, typer.Option(help="Column whose groups belong together.")] = None,
    split: Annotated[str | None, typer.Option(help="Column that says train, validation or test.")] = None,
    separator: Annotated[str | None, typer.Option(help="What stands between labels in one cell.")] = None,
    task: Annotated[str | None, typer.Option(help="As for train. [told from the data]")] = None,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Judge labels, which takes a backbone's weights.")
    ] = True,
    backbone: Annotated[str | None, typer.Option(help="As for train. [mobilenet_v2]")] = None,
    weights: Annotated[str | None, typer.Option(help="imagenet, a file, or random. [imagenet]")] = None,
    pixels: Annotated[str | None, typer.Option(help="What your own backbone expects. [raw]")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels the backbone sees. [the backbone's own]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random. [0]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier OUT or file.")] = False,
    store: StoreOption = None,
) -> None:
    """Find bad files, copies, leaks between parts, doubtful labels and more, before anything is trained."""
    from regraft.artifacts import claim_folder
    from regraft.checkup import check as look_over
    from regraft.recipe import Recipe

    chosen = {
        "image": _names(image),
        "target": _names(target),
        "group": group,
        "split": split,
        "separator": separator,
        "task": task,
        "backbone": backbone,
        "weights": weights,
        "pixels": pixels,
        "image_size": image_size,
        "seed": seed,
    }
    if as_json not in (None, "-") and Path(as_json).exists() and not overwrite:
        raise UsageError(f"{as_json} exists already. Choose another file, or replace it with --overwrite.")
    with claim_folder(out, overwrite=overwrite, mark="check.json") if out else nullcontext() as folder:
        found = look_over(data, replace(Recipe(), **_given(chosen)), labels=labels, store=store)
        if folder is not None:
            (folder / "check.json").write_text(found.as_json(), "utf-8")
            (folder / "check.html").write_text(found.as_html(), "utf-8")
    if as_json == "-":
        print(found.as_json(), end="")
    else:
        _print_findings(found)
    if as_json not in (None, "-"):
        _write_text(Path(as_json), found.as_json())
    if out is not None:
        say(f"Page: {out / 'check.html'}")
    if found.fault is not None:
        raise found.fault


@app.command()
def backbones(as_json: Json = False) -> None:
    """List the backbones of keras.applications: size, parameters, accuracy, and what is on disk."""
    from regraft.backbone.zoo import ZOO, weights_on_disk

    rows = [
        {
            "name": entry.name,
            "image_size": entry.image_size,
            "min_size": entry.min_size,
            "parameters_m": entry.parameters_m,
            "size_mb": entry.size_mb,
            "top1": entry.top1,
            "top5": entry.top5,
            "on_disk": str(weights_on_disk(entry) or ""),
        }
        for entry in ZOO.values()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    print(f"{'name':<22} {'px':>4} {'min':>4} {'params M':>9} {'MB':>6} {'top-1':>6} {'top-5':>6}  weights")
    for row in rows:
        cells = (f"{row[key] if row[key] is not None else '-':>{width}}" for key, width in _COLUMNS)
        print(f"{row['name']:<22} {' '.join(cells)}  {'on disk' if row['on_disk'] else 'to download'}")


_COLUMNS = (
    ("image_size", 4), ("min_size", 4), ("parameters_m", 9), ("size_mb", 6), ("top1", 6), ("top5", 6),
)  # fmt: skip


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in OUT.")] = False,
) -> None:
    """Show the main job in a minute, without network: learn digits 5-9 from a network that knows 0-4."""
    from regraft.demo import run_demo

    result = run_demo(out, overwrite=overwrite)
    print(f"20 images a class, the same small network, top-1 on {result.tested} test images:")
    print(f"  grafted (pre-trained on the digits 0-4): {result.grafted:.3f}")
    print(f"  from scratch:                            {result.scratch:.3f}")
    print(f"Report: {result.report}")


def _print_findings(found: Checkup) -> None:
    """The problems a person should know of, with the first few cases of each."""
    said = found.findings
    reasons = Counter(item.code for item in said.refused)
    print(f"{said.used:,} images can be used; {len(said.refused):,} refused.")
    for code, count in reasons.most_common():
        names = ", ".join(_safe(item.image) for item in said.refused if item.code == code)
        print(f"  {count} {code}: {textwrap.shorten(names, 300, placeholder=' ...')}")
    for problem in said.problems:
        print(f"{problem.weight}, {problem.code}: {_safe(problem.summary)}")
        for case in problem.cases[:SHOWN]:
            names = " = ".join(_safe(image.image) for image in case.images)
            print(f"  {names}{': ' if names and case.detail else ''}{_safe(case.detail)}")
        if len(problem.cases) > SHOWN:
            print(f"  ... and {len(problem.cases) - SHOWN:,} more")
    if said.unchecked:
        print(f"Labels were not checked: {_safe(said.unchecked)}")


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be written: {error.strerror or error}.") from error


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return () if text == "none" else tuple(name.strip() for name in text.split(",") if name.strip())


def _whole_numbers(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(number) for number in _names(text) or ())
    except ValueError as error:
        raise UsageError(f"hidden: expected whole numbers such as 512,128. Received: {text}.") from error


def _phases(
    start: tuple[Phase, ...],
    plans: list[str] | None,
    learning_rates: list[float] | None,
    epochs: list[int] | None,
) -> tuple[Phase, ...] | None:
    """The recipe's phases with what the command line says of them; None where it says nothing."""
    if plans == ["none"] and not learning_rates and not epochs:
        return ()  # the head is solved or trained by its defaults, and that is all
    phases = tuple(Phase(plan) for plan in plans) if plans else start
    for name, values in (("learning_rate", learning_rates), ("epochs", epochs)):
        if values and len(values) not in (1, len(phases)):
            option = name.replace("_", "-")
            raise UsageError(
                f"--{option}: expected one, or one for each of {len(phases)} phases. Received: {len(values)}."
            )
        if values:
            each = values * len(phases) if len(values) == 1 else values
            given: list[dict[str, Any]] = [{name: value} for value in each]
            phases = tuple(replace(phase, **change) for phase, change in zip(phases, given, strict=True))
    return phases if plans or learning_rates or epochs else None


def _safe(text: str) -> str:
    """A name as one printable line in any terminal's encoding."""
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    encoding = sys.stdout.encoding or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def _answer(prediction: Prediction) -> str:
    """Each label with its probability, or each target with its value."""
    shown = prediction.labels or prediction.values
    if not prediction.labels and prediction.task == "multilabel":
        return "no label"
    return ", ".join(f"{_safe(name)}\t{prediction.values[name]:.3f}" for name in shown)


def _print_scores(scores: dict[str, Any]) -> None:
    for part in ("test", "validation", "train", "all"):
        if part not in scores:
            continue
        print(f"{part}, {scores[part]['n']:,} images:")
        for name, score in scores[part].items():
            if name != "n":
                print(f"  {name:<18} {score['value']:.3f}   95 % {score['low']:.3f} to {score['high']:.3f}")
