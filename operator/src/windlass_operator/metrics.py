"""The operator's metrics."""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class Metrics:
    """In a registry of their own, so that several can live in one process."""

    def __init__(self, driver: str) -> None:
        self.registry = CollectorRegistry()
        info = Info("windlass_operator", "The running operator.", registry=self.registry)
        info.info({"version": version("windlass-operator"), "driver": driver})
        self.acting = Gauge(
            "windlass_operator_acting", "1 while this operator acts, 0 while it stands by.", registry=self.registry
        )
        self.reconciles = Counter(
            "windlass_operator_reconciles",
            "Passes over a server, by result: unchanged, written, conflict, failed.",
            ["server", "result"],
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "windlass_operator_reconcile_duration_seconds",
            "How long a pass took, its write included.",
            ["server"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.writes = Counter(
            "windlass_operator_writes", "Acknowledged writes of the durable object.", ["server"], registry=self.registry
        )
        self.conflicts = Counter(
            "windlass_operator_write_conflicts",
            "Writes refused because the durable object had changed.",
            ["server"],
            registry=self.registry,
        )
        self.subscribed = Gauge(
            "windlass_operator_subscribed_replicas",
            "Instances that reported within the last seconds.",
            ["server"],
            registry=self.registry,
        )
        self.epoch = Gauge(
            "windlass_operator_plan_epoch", "Epoch of the plan that is shown.", ["server"], registry=self.registry
        )
        self.rollouts = Counter(
            "windlass_operator_rollouts",
            "Ended rollouts, by outcome.",
            ["server", "model", "outcome"],
            registry=self.registry,
        )
        self.frozen = Gauge(
            "windlass_operator_server_frozen",
            "1 while the ModelVersions of the server can't all be read.",
            ["server"],
            registry=self.registry,
        )
        self.invalid_files = Gauge(
            "windlass_operator_invalid_files",
            "Files that should hold a ModelVersion and don't.",
            registry=self.registry,
        )
        self.unseen_namespaces = Gauge(
            "windlass_operator_unseen_namespaces",
            "Namespaces that this operator is to serve and has no right to look into.",
            registry=self.registry,
        )
        self.watch_restarts = Counter(
            "windlass_operator_watch_restarts", "Watches that died and were started anew.", registry=self.registry
        )
        self.api_requests = Counter(
            "windlass_operator_api_requests",
            "Requests to the API server, but for watches; code none: there was no answer.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.orphans = Gauge(
            "windlass_operator_serving_without_model_version",
            "1 while the committed version has no ModelVersion any more.",
            ["server", "model"],
            registry=self.registry,
        )

    def forget(self, server: str) -> None:
        """Ends the series of a server of which there is nothing left."""
        for each in (
            self.reconciles,
            self.reconcile_seconds,
            self.writes,
            self.conflicts,
            self.subscribed,
            self.epoch,
            self.rollouts,
            self.frozen,
            self.orphans,
        ):
            each.remove_by_labels({"server": server})
