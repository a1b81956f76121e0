"""The Kubernetes driver with its endpoints, as one process."""

from __future__ import annotations

import os
import secrets
import socket
import ssl
from collections.abc import Callable

import kopf
import structlog

from windlass_operator.control.endpoint import create_app
from windlass_operator.control.hub import Hub
from windlass_operator.engine.interface import Observation, Outcome
from windlass_operator.metrics import Metrics
from windlass_operator.settings import KubernetesSettings
from windlass_operator.web import HttpServer, StartError, create_health_app, stop_on_signals, tls_context

from .api import SERVICE_ACCOUNT, Api, ApiError, login
from .authority import Authority
from .driver import KubernetesDriver
from .lease import NAME, Lease, deployment_as_owner
from .reviews import TokenReviews

NO_RESTARTS = (
    "this operator may not change Deployments: install it with restarts.enabled=true (--restarts), or use mode InPlace"
)


async def run_kubernetes(settings: KubernetesSettings, reconcile: Callable[[Observation], Outcome]) -> None:
    """Until SIGTERM or SIGINT. Raises `StartError`."""
    log = structlog.get_logger("windlass.operator")
    stop = stop_on_signals()
    metrics = Metrics("kubernetes")
    info = login()
    api = Api(info, metrics.api_requests)
    servers: list[HttpServer] = []
    try:
        namespace = _own_namespace(settings, info)
        identity = f"{settings.pod or socket.gethostname()}_{secrets.token_hex(4)}"
        authority = _authority(settings, api, namespace)
        tls = await _context(settings, authority)
        hub = Hub()
        driver = KubernetesDriver(
            api,
            info,
            Lease(api, namespace, identity, owner=await deployment_as_owner(api, namespace)),
            hub,
            reconcile,
            metrics,
            namespaces=settings.namespaces or None,
            authority=authority,
            no_restarts="" if settings.restarts else NO_RESTARTS,
        )
        servers.append(
            HttpServer(
                "control endpoint",
                create_app(hub, TokenReviews(api, driver.pods)),
                settings.host,
                settings.port,
                tls,
            )
        )
        servers.append(
            HttpServer(
                "metrics endpoint",
                create_health_app(metrics.registry, driver.turning, driver.acting),
                settings.metrics_host,
                settings.metrics_port,
            )
        )
        for server in servers:
            await server.open()
            log.info("operator.listening", endpoint=server.name, url=server.url)

        async def nothing_more() -> None:
            log.info("operator.acting", identity=identity)

        await driver.run(stop, nothing_more)
        log.info("operator.stopped")
    finally:
        for server in servers:
            await server.close()
        await api.close()


def _own_namespace(settings: KubernetesSettings, info: kopf.ConnectionInfo) -> str:
    if settings.namespace is not None:
        return settings.namespace
    try:
        return (SERVICE_ACCOUNT / "namespace").read_text().strip()
    except OSError:
        return info.default_namespace or os.environ.get("NAMESPACE") or "default"


def _authority(settings: KubernetesSettings, api: Api, namespace: str) -> Authority | None:
    if settings.control_tls_cert is not None or settings.control_tls == "off":
        return None
    service = f"{NAME}.{namespace}.svc"
    return Authority(
        api, namespace, [NAME, f"{NAME}.{namespace}", service, f"{service}.cluster.local", *settings.control_name]
    )


async def _context(settings: KubernetesSettings, authority: Authority | None) -> ssl.SSLContext | None:
    if authority is None:
        return tls_context(settings.control_tls_cert, settings.control_tls_key)
    try:
        await authority.refresh()
    except ApiError as error:
        raise StartError(
            f"the control endpoint's certificate can't be had: {error}; give the operator its role in its own "
            "namespace, or name files by --control-tls-cert and --control-tls-key"
        ) from error
    return authority.context
