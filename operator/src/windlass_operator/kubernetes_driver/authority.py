"""The control endpoint's TLS: its Secret, the context that uses it, and the CA in every namespace with a server."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import structlog

from .api import CONFLICT, NOT_FOUND, Api, ApiError, Object, collection, single
from .certificate import Material, renewed
from .objects import MANAGED_BY_LABEL, MANAGER

SECRET = "windlass-operator-tls"  # noqa: S105 - a name
CA_CONFIG_MAP = "windlass-operator-ca"
CA_KEY = "ca.crt"
RENEW_SECONDS = 3600.0
"""Between looks at the Secret."""
LOOK_SECONDS = 60.0
"""Between looks at a ConfigMap with the CA that was as it should be."""
_ATTEMPTS = 5


class Authority:
    """One operator's hold on certificate and CA; those that stand by use the same Secret."""

    def __init__(self, api: Api, namespace: str, names: Sequence[str]) -> None:
        self._api = api
        self._namespace = namespace
        self._names = sorted(names)
        self._material: Material | None = None
        self._handed_out: dict[str, float] = {}
        """By namespace: until when its ConfigMap is taken to be right."""
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    async def refresh(self) -> None:
        """Takes what the Secret holds, and renews it when that is due. Raises `ApiError`."""
        for _ in range(_ATTEMPTS):
            found = await self._read()
            before = _material_of(found) if found is not None else None
            material = renewed(before, self._names, datetime.now(UTC))
            if material is before or await self._write(found, material):
                break
        else:
            raise ApiError(f"Secret {self._namespace}/{SECRET} changes all the time", CONFLICT)
        if material != self._material:
            load_chain(self.context, material)
            self._material = material
            self._handed_out.clear()

    async def hand_out(self, namespaces: Iterable[str], now: float) -> None:
        """Makes the CA's ConfigMap what it should be in each namespace; problems are logged, and tried again."""
        wanted = set(namespaces)
        self._handed_out = {each: until for each, until in self._handed_out.items() if each in wanted}
        if self._material is None:
            return
        for namespace in sorted(wanted):
            if now < self._handed_out.get(namespace, 0.0):
                continue
            try:
                await self._hand_out(namespace, self._material.ca.decode())
            except ApiError as error:
                if not error.namespace_ends and error.status != NOT_FOUND:
                    structlog.get_logger("windlass.kubernetes").error(
                        "ca.not_written", namespace=namespace, error=str(error)
                    )
                continue
            self._handed_out[namespace] = now + LOOK_SECONDS

    async def _hand_out(self, namespace: str, text: str) -> None:
        path = single("configmaps", namespace, CA_CONFIG_MAP)
        value: Object = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CA_CONFIG_MAP, "namespace": namespace, "labels": {MANAGED_BY_LABEL: MANAGER}},
            "data": {CA_KEY: text},
        }
        try:
            found = await self._api.request("GET", path)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            await self._api.request("POST", collection("configmaps", namespace), value)
            return
        if (found.get("data") or {}).get(CA_KEY) != text:
            await self._api.request("PUT", path, value)

    async def _read(self) -> Object | None:
        try:
            return await self._api.request("GET", single("secrets", self._namespace, SECRET))
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def _write(self, found: Object | None, material: Material) -> bool:
        """Whether it was written; False: somebody else was quicker."""
        data = {
            "ca.crt": material.ca,
            "ca.key": material.ca_key,
            "tls.crt": material.certificate,
            "tls.key": material.key,
        }
        metadata = {"name": SECRET, "namespace": self._namespace, "labels": {MANAGED_BY_LABEL: MANAGER}}
        if found is not None:
            metadata["resourceVersion"] = found["metadata"]["resourceVersion"]
        value = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls" if found is None else found.get("type", "Opaque"),
            "metadata": metadata,
            "data": {name: base64.b64encode(content).decode() for name, content in data.items()},
        }
        try:
            if found is None:
                await self._api.request("POST", collection("secrets", self._namespace), value)
            else:
                await self._api.request("PUT", single("secrets", self._namespace, SECRET), value)
        except ApiError as error:
            if error.status == CONFLICT:
                return False
            raise
        structlog.get_logger("windlass.kubernetes").info("certificate.made", secret=SECRET)
        return True


def load_chain(context: ssl.SSLContext, material: Material) -> None:
    """Uses certificate and key for new connections. The key never comes to a disk."""
    descriptor = os.memfd_create("windlass-operator-tls")
    try:
        os.write(descriptor, material.certificate + material.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _material_of(secret: Object) -> Material | None:
    """What a Secret holds; None: not all of it."""
    data = secret.get("data") or {}
    try:
        return Material(*(base64.b64decode(data[name]) for name in ("ca.crt", "ca.key", "tls.crt", "tls.key")))
    except (KeyError, TypeError, binascii.Error):
        return None
