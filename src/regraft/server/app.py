"""The application: its routes, and what each of them answers."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

import regraft
from regraft.data.images.rejections import Rejection
from regraft.server.body import BodyReader, split_images
from regraft.server.guard import CLIENT_GONE, Refusal, RequestGuard
from regraft.server.metrics import ServerMetrics
from regraft.server.open_inference import describe_model, make_response, parse_request
from regraft.server.refusals import RequestRefused, encode_json
from regraft.server.registry import ModelRegistry
from regraft.server.served_model import ServedModel
from regraft.server.service import ImageService, run_while_connected
from regraft.server.settings import ServerSettings
from regraft.system.console import Reporter
from regraft.uncertainty.prediction_sets import DEFAULT_COVERAGE

__all__ = ["make_app", "make_service"]

PAGE = Path(__file__).parent / "page"
FILES = {
    "app.js": "text/javascript; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
HTML = "text/html; charset=utf-8"

_Coverage = Annotated[
    float, Query(gt=0, lt=1, description="Share of images whose set or interval should hold the truth.")
]
_Model = Annotated[str | None, Query(description="Name of the model; the first one by default.")]
_PROTOCOL: list[str | Enum] = ["Open Inference Protocol v2"]
_IMAGES = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def make_service(registry: ModelRegistry, settings: ServerSettings) -> ImageService:
    """Return the service that `make_app` puts behind its routes; it is not open yet."""
    return ImageService(registry, settings.limits, ServerMetrics())


def make_app(service: ImageService, settings: ServerSettings, reporter: Reporter) -> RequestGuard:
    """Return the application of a server.

    Args:
        service: answers images.
        settings: whom to answer, and limits.
        reporter: is told of defects.
    """
    app = FastAPI(
        title="regraft", version=regraft.__version__, docs_url=None, redoc_url=None,
        description="Send images, get what they show, how sure that is, and where the evidence lies.",
    )  # fmt: skip
    for kind in (RequestRefused, HTTPException, RequestValidationError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _refuse)
    _add_pages(app)
    _add_answers(app, service, BodyReader(settings.limits), settings)
    _add_models(app, service)
    _add_health(app, service)
    _add_open_inference(app, service, BodyReader(settings.limits), settings)

    @app.get("/metrics", tags=["operations"], summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return RequestGuard(
        app,
        settings,
        metrics=service.metrics,
        is_draining=lambda: service.is_draining,
        reporter=reporter,
    )


def _respond(value: Any) -> Response:
    return Response(encode_json(value), media_type="application/json")


async def _refuse(request: Request, error: Exception) -> Any:
    """Return the answer to a request that ends in an error; the guard reports those that are defects."""
    status = getattr(error, "status_code", 500)
    if isinstance(error, RequestRefused):
        return Refusal(error)
    if isinstance(error, RequestValidationError):
        refused = RequestRefused(400, "bad_query", "coverage: expected a number above 0 and below 1")
    elif isinstance(error, ClientDisconnect):
        refused = RequestRefused(CLIENT_GONE, "client_gone", "")
    elif status == 405:
        refused = RequestRefused(405, "method_not_allowed", "expected another method; see /docs")
    elif status == 500:
        refused = RequestRefused(500, "internal_error", "the server failed; its log names the reason")
    else:
        refused = RequestRefused(status, "not_found" if status == 404 else "bad_request", "see /docs")
    return Refusal(refused)


# --- pages


def _add_pages(app: FastAPI) -> None:
    index, docs = ((PAGE / name).read_bytes() for name in ("index.html", "docs.html"))
    files = {name: (PAGE / name).read_bytes() for name in FILES}

    @app.get("/", include_in_schema=False)
    async def show_page() -> Response:
        return Response(index, media_type=HTML)

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> Response:
        return Response(docs, media_type=HTML)

    @app.get("/static/{name}", include_in_schema=False)
    async def send_file(name: str) -> Response:
        if name not in files:
            raise RequestRefused(404, "not_found", "see /docs")
        return Response(files[name], media_type=FILES[name])


# --- answers


def _add_answers(app: FastAPI, service: ImageService, bodies: BodyReader, settings: ServerSettings) -> None:
    async def answer(request: Request, name: str | None, coverage: float, *, explain: bool) -> Response:
        model = service.registry.get(name)
        async with bodies.read(request) as body:
            images = split_images(request.headers.get("content-type", ""), body, settings.limits.images)
            work = service.answer_images(model, images, coverage=coverage, explain=explain)
            answers = await run_while_connected(request, work, settings.limits.answer_seconds)
        if len(answers) > 1:
            names = _name_samples([image.name for image in images], len(answers))
            return _respond([_describe(*pair) for pair in zip(names, answers, strict=True)])
        if isinstance(answers[0], Rejection):
            raise RequestRefused.from_rejection(answers[0])
        return _respond(answers[0])

    @app.post("/predict", tags=["answers"], openapi_extra=_IMAGES, summary="Predict one image, or several")
    async def predict(
        request: Request, model: _Model = None, coverage: _Coverage = DEFAULT_COVERAGE
    ) -> Response:
        """Return one object for one image, and a list for several.

        The fields are those of a row of `regraft predict --json`, and `model` and `version`. A refused image
        among several is a row of `image`, `refused` and `detail`; a single one is an error.
        """
        return await answer(request, model, coverage, explain=False)

    @app.post("/explain", tags=["answers"], openapi_extra=_IMAGES, summary="Predict and explain images")
    async def explain(
        request: Request, model: _Model = None, coverage: _Coverage = DEFAULT_COVERAGE
    ) -> Response:
        """Return what `/predict` does, with heat maps and the nearest training images.

        `maps` holds a grid of numbers for each question: positive where the image speaks for the subject.
        """
        return await answer(request, model, coverage, explain=True)


def _add_models(app: FastAPI, service: ImageService) -> None:
    @app.get("/models", tags=["answers"], summary="List the models")
    async def models() -> Response:
        """Return name, version, task and outputs of each model."""
        return _respond(
            [
                {"model": m.name, "version": m.version, "task": m.bundle.task, "outputs": m.bundle.outputs,
                 "images_per_sample": m.bundle.images_per_sample, "lacks": m.lacks}
                for m in service.registry.models
            ]
        )  # fmt: skip


def _name_samples(names: Sequence[str], count: int) -> list[str]:
    size = len(names) // count
    return [", ".join(names[start : start + size]) for start in range(0, len(names), size)]


def _describe(name: str, answer: dict[str, Any] | Rejection) -> dict[str, Any]:
    if isinstance(answer, Rejection):
        return {"image": name, "refused": answer.code, "detail": answer.detail}
    return answer


# --- the Open Inference Protocol


def _require_ready(service: ImageService) -> None:
    if not service.is_ready or service.is_draining:
        reason = "the server is about to end" if service.is_draining else "no model has answered yet"
        raise RequestRefused(503, "not_ready", reason)


def _add_health(app: FastAPI, service: ImageService) -> None:
    tags = _PROTOCOL

    @app.get("/v2", tags=tags, summary="Describe the server")
    async def server() -> Response:
        return _respond(
            {"name": "regraft", "version": regraft.__version__, "extensions": ["binary_tensor_data"]}
        )

    @app.get("/v2/health/live", tags=tags, summary="Tell whether the server runs")
    async def live() -> Response:
        return _respond({"live": True})

    @app.get("/v2/health/ready", tags=tags, summary="Tell whether the server can answer")
    async def ready() -> Response:
        _require_ready(service)
        return _respond({"ready": True})


def _add_open_inference(
    app: FastAPI, service: ImageService, bodies: BodyReader, settings: ServerSettings
) -> None:
    tags = _PROTOCOL

    @app.get("/v2/models/{name}", tags=tags, summary="Describe a model")
    @app.get("/v2/models/{name}/versions/{version}", tags=tags, include_in_schema=False)
    async def model(request: Request, name: str) -> Response:
        return _respond(describe_model(_find_model(service, name, request)))

    @app.get("/v2/models/{name}/ready", tags=tags, summary="Tell whether a model can answer")
    @app.get("/v2/models/{name}/versions/{version}/ready", tags=tags, include_in_schema=False)
    async def model_ready(request: Request, name: str) -> Response:
        model = _find_model(service, name, request)
        _require_ready(service)
        return _respond({"name": model.name, "ready": True})

    @app.post("/v2/models/{name}/infer", tags=tags, summary="Predict images")
    @app.post("/v2/models/{name}/versions/{version}/infer", tags=tags, include_in_schema=False)
    async def infer(request: Request, name: str) -> Response:
        """Take images as tensors of BYTES; one that is refused refuses the request."""
        served, limits = _find_model(service, name, request), settings.limits
        async with bodies.read(request) as body:
            images, request_id, names = parse_request(body, request.headers, limits.images)
            work = service.answer_images(served, images, coverage=DEFAULT_COVERAGE)
            answers = await run_while_connected(request, work, limits.answer_seconds)
        rows = [answer for answer in answers if not isinstance(answer, Rejection)]
        for answer in answers:
            if isinstance(answer, Rejection):
                raise RequestRefused.from_rejection(answer)
        return _respond(make_response(served, rows, request_id, names))


def _find_model(service: ImageService, name: str, request: Request) -> ServedModel:
    """Return the model that an address names, by itself or with its version."""
    model = service.registry.get(name)
    version = request.path_params.get("version", model.version)
    if version != model.version:
        raise RequestRefused(404, "unknown_model", f"expected version {model.version}")
    return model
