"""`/metrics`: read from the host when it is asked for, so that nothing is counted twice and nothing lingers.

Labels only of models and versions that a plan named; the series of a version go an hour after it was unloaded.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Receive, Scope, Send

from windlass_contract.report import VersionReport, VersionState
from windlass_server.api.envelope import Traffic
from windlass_server.connections import Connections, Ended
from windlass_server.hosting.host import Host
from windlass_server.hosting.meter import BUCKETS_SECONDS, Meter
from windlass_server.predictions.log import PredictionLog

KEPT_SECONDS = 3600.0
"""After its unloading."""


class Exposition:
    """The replica's metrics as text. To be asked in the event loop's thread."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(
        self,
        host: Host,
        traffic: Traffic,
        connections: Connections,
        predictions: PredictionLog | None,
        is_ready: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=self._registry)
        self._registry.register(_Replica(host, traffic, connections, predictions, is_ready, now))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


class _Replica(Collector):
    def __init__(
        self,
        host: Host,
        traffic: Traffic,
        connections: Connections,
        predictions: PredictionLog | None,
        is_ready: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        self._host = host
        self._traffic = traffic
        self._connections = connections
        self._predictions = predictions
        self._is_ready = is_ready
        self._now = now

    def describe(self) -> Iterable[Metric]:
        """Nothing to check before the first question."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        self._host.forget_meters(self._now() - KEPT_SECONDS)
        yield from self._process()
        yield from self._versions()
        yield from self._answers()
        yield from _predictions(self._predictions)

    def _process(self) -> Iterator[Metric]:
        info = {"version": version("windlass-server"), "python": platform.python_version()}
        yield InfoMetricFamily("windlass_build", "The replica's program", value=info)
        yield GaugeMetricFamily("windlass_ready", "1: it may get traffic", value=float(self._is_ready()))
        plan = self._host.plan
        yield GaugeMetricFamily("windlass_plan_epoch", "Epoch of the plan followed", value=plan.epoch if plan else 0)
        http = CounterMetricFamily(
            "windlass_http_requests", "HTTP requests answered, by protocol and status", labels=["protocol", "code"]
        )
        for (protocol, status), count in self._traffic.answers.items():
            http.add_metric([protocol, str(status)], count)
        yield http
        yield GaugeMetricFamily("windlass_connections", "Clients' open connections", value=len(self._connections.open))
        bodies = self._traffic.bodies
        without_room = bodies.given_up + self._traffic.json.refused
        yield GaugeMetricFamily(
            "windlass_received_bytes", "Larger bodies that are received, worked on and answered", value=bodies.held
        )
        yield CounterMetricFamily(
            "windlass_requests_without_room", "Requests answered 429 for want of room for bodies", value=without_room
        )
        ended = CounterMetricFamily(
            "windlass_connections_ended", "Connections that the replica ended, by reason", labels=["reason"]
        )
        for reason in Ended:
            ended.add_metric([reason.value], self._connections.ended[reason])
        yield ended

    def _versions(self) -> Iterator[Metric]:
        by_version = ["model", "version"]
        state = GaugeMetricFamily(
            "windlass_version_state", "1: the version is in this state", labels=[*by_version, "state"]
        )
        weight = GaugeMetricFamily(
            "windlass_version_traffic_ratio", "Share of the model's requests that is routed to it", labels=by_version
        )
        memory = GaugeMetricFamily(
            "windlass_version_memory_bytes", "Private memory of the version's worker", labels=by_version
        )
        restarts = CounterMetricFamily(
            "windlass_worker_restarts", "Times that the version's worker was started anew", labels=by_version
        )
        lagging = GaugeMetricFamily(
            "windlass_model_lagging", "1: the plan gives traffic to a version that isn't prepared", labels=["model"]
        )
        for name, model in self._host.model_reports().items():
            lagging.add_metric([name], float(model.lagging))
            for each in model.versions:
                labels = [name, str(each.version)]
                for known in VersionState:
                    state.add_metric([*labels, str(known)], float(each.state is known))
                weight.add_metric(labels, model.serving.get(each.version, 0) / 1000)
                _if_known(memory, labels, each)
                restarts.add_metric(labels, each.restarts)
        batch = GaugeMetricFamily(
            "windlass_version_max_batch_size",
            "One-row requests that the version's worker runs together at most; 1: none",
            labels=by_version,
        )
        slices = GaugeMetricFamily(
            "windlass_version_slice_rows",
            "Rows of a large request that the version's worker runs at a time; 0: all of them",
            labels=by_version,
        )
        frozen = GaugeMetricFamily(
            "windlass_version_frozen",
            "1: the version is run with constants in place of its variables",
            labels=by_version,
        )
        threads = GaugeMetricFamily(
            "windlass_version_threads", "Requests that the version's worker runs at a time", labels=by_version
        )
        for key, slot in self._host.slots.items():
            if slot.resident is not None and slot.resident.state is VersionState.PREPARED:
                batch.add_metric([key.model, str(key.version)], slot.resident.max_batch_size)
                slices.add_metric([key.model, str(key.version)], slot.resident.slice_rows)
                frozen.add_metric([key.model, str(key.version)], float(slot.resident.frozen))
                threads.add_metric([key.model, str(key.version)], slot.resident.threads)
        breaker = GaugeMetricFamily(
            "windlass_breaker_open", "1: the version failed too often, and its traffic is taken away", labels=by_version
        )
        opened = {(key.model, str(key.version)) for key in self._host.open_breakers}
        for names in {(key.model, str(key.version)) for key in self._host.slots}:
            breaker.add_metric(names, float(names in opened))
        yield from (state, weight, memory, restarts, lagging, batch, slices, frozen, threads, breaker)

    def _answers(self) -> Iterator[Metric]:
        by_version = ["model", "version"]
        requests = CounterMetricFamily(
            "windlass_requests", "Requests answered by a version, by gRPC's status", labels=[*by_version, "code"]
        )
        duration = HistogramMetricFamily(
            "windlass_request_duration_seconds",
            "From handing a request to the version to its answer",
            labels=by_version,
        )
        fallbacks = CounterMetricFamily(
            "windlass_fallbacks", "Requests that the version failed and another one answered", labels=by_version
        )
        waiting = GaugeMetricFamily(
            "windlass_requests_in_flight",
            "Requests admitted and not answered yet; explicit: they name a version or label",
            labels=[*by_version, "explicit"],
        )
        bound = GaugeMetricFamily(
            "windlass_queue_capacity", "Requests in flight per version from which on it is 429", labels=["explicit"]
        )
        for labels, meters in self._meters().items():
            codes: Counter[str] = sum((meter.codes for meter in meters), Counter())
            for code, count in codes.items():
                requests.add_metric([*labels, code], count)
            counts = [sum(each) for each in zip(*(meter.buckets for meter in meters), strict=True)]
            ends = [*map(str, BUCKETS_SECONDS), "+Inf"]
            buckets = list(zip(ends, accumulate(counts), strict=True))
            duration.add_metric(labels, buckets=buckets, sum_value=sum(meter.seconds for meter in meters))
            fallbacks.add_metric(labels, sum(meter.fallbacks for meter in meters))
        in_flight: Counter[tuple[str, str, str]] = Counter()
        for key, slot in self._host.slots.items():
            in_flight[key.model, str(key.version), "false"] += slot.waiting
            in_flight[key.model, str(key.version), "true"] += slot.waiting_explicit
        for flight_labels, count in in_flight.items():
            waiting.add_metric(flight_labels, count)
        bound.add_metric(["false"], self._host.settings.queue_length)
        bound.add_metric(["true"], self._host.settings.explicit_queue_length)
        yield from (requests, duration, fallbacks, waiting, bound)

    def _meters(self) -> dict[tuple[str, str], list[Meter]]:
        """The same version may have been held with other bytes."""
        meters: dict[tuple[str, str], list[Meter]] = {}
        for key, meter in self._host.meters.items():
            meters.setdefault((key.model, str(key.version)), []).append(meter)
        return meters


def _if_known(memory: GaugeMetricFamily, labels: list[str], report: VersionReport) -> None:
    if report.memory_bytes is not None:
        memory.add_metric(labels, report.memory_bytes)


def _predictions(log: PredictionLog | None) -> Iterator[Metric]:
    if log is None or log.status() == "disabled":
        return
    counters = log.counters
    for name, text, value in (
        ("recorded", "Predictions taken by the log, lost ones included", counters.recorded),
        ("sampled_out", "Predictions not taken, since the sample is a share", counters.sampled_out),
        ("spooled", "Predictions that were safe on disk before they were stored", counters.spooled),
        ("stored", "Predictions stored in the database", counters.stored),
        ("replayed", "Predictions stored late, after an outage or a restart; part of stored", counters.replayed),
        ("expired", "Predictions deleted from the database for its bounds of size and age", counters.expired),
    ):
        yield CounterMetricFamily(f"windlass_predictions_{name}", text, value=value)
    lost = CounterMetricFamily("windlass_predictions_lost", "Predictions lost, by reason", labels=["reason"])
    for reason, count in counters.lost.items():
        lost.add_metric([reason], count)
    yield lost
    yield GaugeMetricFamily("windlass_predictions_spool_bytes", "What waits for the database", value=log.spool_bytes)
    yield GaugeMetricFamily("windlass_predictions_database_up", "1: it takes rows", value=float(log.status() == "ok"))


def metrics_app(exposition: Exposition) -> ASGIApp:
    """Answers `/metrics`, also under TensorFlow Serving's path, and nothing else."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
        assert scope["type"] == "http"
        found = scope["path"] in {"/metrics", "/monitoring/prometheus/metrics"} and scope["method"] in {"GET", "HEAD"}
        body = exposition.text() if found else b"metrics are at /metrics\n"
        content_type = exposition.content_type if found else "text/plain; charset=utf-8"
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return app
