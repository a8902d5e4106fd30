"""Heat maps in the report: beside each mistake, and of right answers of each class.

The images are run once through the graph of the run, which gives their feature maps without a backend. A run
without such a graph, or whose head sees more than the last feature map, has a report without heat maps.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog
from regraft.data.images.decoder_pool import DecodingPool
from regraft.data.images.rejections import Rejection
from regraft.explanation.heads import read_head
from regraft.explanation.heat import HeatMaker
from regraft.explanation.pictures import encode_jpeg, paint
from regraft.features.openvino import OpenVinoEngine
from regraft.inference.model_files import GRAPH
from regraft.report.content import (
    ClassFindings,
    PartScores,
    RightImage,
    WrongImage,
    WrongLabels,
    WrongNumbers,
)
from regraft.report.mistakes import make_thumbnail, rank_right_answers
from regraft.tasks import TASKS
from regraft.training.outcome import Outcome

__all__ = ["HeatMapPlan", "add_heat_maps", "plan_heat_maps"]

MOST_BYTES = 1.5e9  # of changed maps that a head is run on, about a second

Wrong = WrongImage | WrongLabels | WrongNumbers


@dataclass(frozen=True)
class _Request:
    """A heat map to make: the image, the direction as in `HeatMaker.compute`, and the picture to paint on.

    `subject` is the label or target that the map is of, "" for classes, which the report names anyway.
    """

    image: str
    direction: NDArray[np.float64]
    thumbnail: bytes
    subject: str = ""
    is_signed: bool = True


@dataclass(frozen=True)
class HeatMapPlan:
    """The heat maps of a report: those of the mistakes of the first part, then those of right answers."""

    requests: tuple[_Request, ...] = ()
    right: tuple[RightImage, ...] = ()


def plan_heat_maps(parts: Sequence[PartScores], outcome: Outcome) -> HeatMapPlan:
    """Choose the images of the report's heat maps: mistakes of the first part, and right answers.

    Args:
        parts: the scored parts; the first is that of the headline.
        outcome: the result of the run.
    """
    catalog = outcome.catalog
    if not parts or len(catalog.samples[0].images) > 1 or outcome.network.estimator is not None:
        return HeatMapPlan()
    findings: Any = parts[0].findings
    right = tuple(_list_right_images(outcome, parts[0]))
    requests = [_make_request(item, catalog) for item in findings.wrong]
    return HeatMapPlan((*requests, *(_ask_about_class(item, catalog) for item in right)), right)


def add_heat_maps(
    parts: Sequence[PartScores], plan: HeatMapPlan, outcome: Outcome, folder: Path
) -> list[PartScores]:
    """Return the scored parts with the heat maps of a plan in the first.

    Args:
        parts, outcome: as for `plan_heat_maps`.
        plan: the images to make heat maps of.
        folder: the run folder, with its graph if there is one.
    """
    if not plan.requests:
        return list(parts)
    catalog = outcome.catalog
    try:
        head = read_head(folder / GRAPH[0], TASKS[catalog.task].activation)
        # One image at a time: eight of these few take 90 MB more, and no less time.
        engine = OpenVinoEngine(folder / GRAPH[0], batch=1, outputs=(head.source,))
        pictures = _paint_all(plan.requests, catalog, engine, HeatMaker(head), outcome.backbone.image_size)
    except (ImportError, RuntimeError, ValueError):  # there is no graph, or the head sees more than its map
        return list(parts)
    findings: Any = parts[0].findings
    asked, answered = len(findings.wrong), zip(findings.wrong, plan.requests, pictures, strict=False)
    changes: dict[str, Any] = {"wrong": [_add_heat(*answer) for answer in answered]}
    if isinstance(findings, ClassFindings):
        pairs = zip(plan.right, pictures[asked:], strict=True)
        changes["right"] = [replace(item, heat=picture) for item, picture in pairs if picture]
    return [replace(parts[0], findings=replace(findings, **changes)), *parts[1:]]


def _add_heat(item: Any, request: _Request, heat: bytes) -> Any:
    labelled = {"heat_label": request.subject} if request.subject else {}
    return replace(item, heat=heat, **labelled)


# --- what to ask


def _make_request(item: Wrong, catalog: Catalog) -> _Request:
    """Ask what speaks for the wrong class rather than the true one, for a wrong label, or for a number."""
    if isinstance(item, WrongImage):
        direction = _point_to(item.predicted, catalog) - _point_to(item.truth, catalog)
        return _Request(item.image, direction, item.thumbnail)
    if isinstance(item, WrongLabels):
        label = max(item.added, key=lambda pair: pair[1])[0] if item.added else item.missed[0][0]
    else:
        label = max(item.values, key=lambda row: abs(row[2] - row[1]) / max(abs(row[1]), 1e-9))[0]
    return _Request(item.image, _point_to(label, catalog), item.thumbnail, label)


def _ask_about_class(item: RightImage, catalog: Catalog) -> _Request:
    """Ask what speaks for the class of a right answer, compared with the mean of all classes."""
    direction = _point_to(item.truth, catalog)
    if catalog.task == "multiclass":
        direction -= 1 / len(catalog.outputs)
    return _Request(item.image, direction, item.thumbnail, is_signed=False)


def _point_to(output: str, catalog: Catalog) -> NDArray[np.float64]:
    """Return the direction of the decision values that speaks for a class, label or target."""
    number = catalog.outputs.index(output)
    if catalog.task == "binary":
        return np.array([number - 0.5])
    return np.asarray(np.eye(len(catalog.outputs))[number])


def _list_right_images(outcome: Outcome, part: PartScores) -> list[RightImage]:
    """Return right answers of each class without their heat maps; nothing for labels and numbers."""
    catalog = outcome.catalog
    if not isinstance(part.findings, ClassFindings):
        return []
    samples, table = catalog.part(part.name), TASKS[catalog.task].expand_binary(outcome.answers[part.name][0])
    truth = catalog.targets(samples)
    return [
        RightImage(
            samples[row].path,
            catalog.outputs[truth[row]],
            float(table[row, truth[row]]),
            make_thumbnail(catalog.root / samples[row].path, depth=catalog.depth),
            b"",
        )
        for row in rank_right_answers(truth, table)
    ]


# --- from images to pictures


def _paint_all(
    requests: Sequence[_Request], catalog: Catalog, engine: OpenVinoEngine, heat_maker: HeatMaker, size: int
) -> list[bytes]:
    """Return the thumbnail of each request with its heat map on top; b"" where there is none."""
    digests = {sample.path: sample.digest for sample in catalog.samples}
    jobs = catalog.make_jobs([digests[request.image] for request in requests])
    pictures = [b""] * len(requests)
    under_way: deque[int] = deque()  # the requests that the engine works on
    spent = 0.0
    with DecodingPool(jobs, size, depth=catalog.depth) as decoding:
        for outputs in engine.run(_iterate_pixels(decoding, under_way)):
            number, (maps,) = under_way.popleft(), outputs.values()
            request, features = requests[number], maps[0]
            if request.thumbnail and spent < MOST_BYTES:
                heat = heat_maker.compute(features, request.direction[None])[0]
                pictures[number] = _paint(request, heat - heat.mean() * (catalog.task == "regression"))
                spent += 0 if heat_maker.is_linear else features.nbytes * heat.size
    return pictures


def _iterate_pixels(decoding: DecodingPool, numbers: deque[int]) -> Iterator[NDArray[np.uint8]]:
    """Yield each decoded image as a batch, after adding the number of its job to `numbers`."""
    for number, item in enumerate(decoding):
        if not isinstance(item, Rejection):
            numbers.append(number)
            yield item.pixels[None]


def _paint(request: _Request, heat: NDArray[np.float32]) -> bytes:
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(request.thumbnail)).convert("RGB"))
    return encode_jpeg(paint(picture, heat, is_signed=request.is_signed), quality=62)
