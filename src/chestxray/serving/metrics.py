"""Figures about the service for Prometheus; none about patients."""

from __future__ import annotations

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The figures of one service, and of its process (memory, CPU time, open files).

    Attributes:
        requests: answered, by route and status.
        seconds: from the request's first byte to the answer, by route.
        problems: by code.
        upload_bytes: of bodies read whole.
        in_progress: requests that hold a place.
        batches: images that the model read at once.
    """

    def __init__(self, model: str, engine: str) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "chestxray_requests", "Requests answered.", ("route", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "chestxray_request_duration_seconds",
            "Seconds from a request's first byte to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.problems = Counter(
            "chestxray_problems",
            "Requests without a reading, by code.",
            ("code",),
            registry=self._registry,
        )
        self.upload_bytes = Counter(
            "chestxray_upload_bytes", "Bytes of images received.", registry=self._registry
        )
        self.in_progress = Gauge(
            "chestxray_uploads_in_progress",
            "Uploads being received, decoded or read.",
            registry=self._registry,
        )
        self.batches = Histogram(
            "chestxray_batch_images",
            "Images that the model read at once.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        info = Info("chestxray_model", "What reads.", registry=self._registry)
        info.info({"identity": model, "engine": engine})

    def page(self) -> bytes:
        """Give all figures in Prometheus's text format."""
        return generate_latest(self._registry)
