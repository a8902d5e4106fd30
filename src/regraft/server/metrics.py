"""Figures about a server for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

__all__ = ["ServerMetrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ServerMetrics:
    """Counters of requests, images and reloads, and what the server is busy with.

    Labels are names of routes, models and codes only: nothing that a client sends becomes one.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "regraft_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "regraft_request_seconds",
            "Time from the headers of a request to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._images = Counter(
            "regraft_images", "Images by model, and by result: ok or a code.", ["model", "result"],
            registry=self._registry,
        )  # fmt: skip
        self._groups = Histogram(
            "regraft_group_images",
            "Images that the network computed together.",
            buckets=(1, 2, 4, 8, 16),
            registry=self._registry,
        )
        self._reloads = Counter("regraft_reloads", "Reloads by result.", ["result"], registry=self._registry)
        self._in_progress = Gauge(
            "regraft_requests_in_progress", "Requests under way.", registry=self._registry
        )

    def watch(
        self, count_images: Callable[[], int], list_models: Callable[[], list[tuple[str, str]]]
    ) -> None:
        """Read two figures whenever the metrics are asked for: images in the queue, and models."""
        self._registry.register(_LiveFigures(count_images, list_models))

    def begin_request(self) -> None:
        """Count a request that is under way."""
        self._in_progress.inc()

    def end_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that ended; a status of 499 means that the client has gone."""
        self._in_progress.dec()
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_image(self, model: str, result: str) -> None:
        """Count an image that was answered, or refused with a code."""
        self._images.labels(model, result).inc()

    def count_group(self, size: int) -> None:
        """Count images that were computed together."""
        self._groups.observe(size)

    def count_reload(self, result: str) -> None:
        """Count a reload that was "done" or "refused"."""
        self._reloads.labels(result).inc()

    def render(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self._registry)


class _LiveFigures(Collector):
    def __init__(
        self, count_images: Callable[[], int], list_models: Callable[[], list[tuple[str, str]]]
    ) -> None:
        self._count_images, self._list_models = count_images, list_models

    def collect(self) -> list[GaugeMetricFamily]:
        queue = GaugeMetricFamily("regraft_queue_images", "Images that are decoded or wait for the network.")
        queue.add_metric([], self._count_images())
        models = GaugeMetricFamily("regraft_model_info", "Models and versions.", labels=["model", "version"])
        for name, version in self._list_models():
            models.add_metric([name, version], 1)
        return [queue, models]
