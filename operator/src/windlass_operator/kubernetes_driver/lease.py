"""Who acts: the holder of a Lease, as client-go's leader election has it.

Whether a holder is gone is seen by our own monotonic clock: its Lease hasn't changed for as long as it lasts. No clock
of another machine is trusted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from .api import CONFLICT, NOT_FOUND, Api, ApiError, Object, collection, single

NAME = "windlass-operator"
LASTS_SECONDS = 10
RENEW_SECONDS = 2.0
"""Between renewals, and between looks of those that stand by."""
REQUEST_SECONDS = 3.0


@dataclass
class Lease:
    """One operator's side of it."""

    api: Api
    namespace: str
    identity: str
    clock: Callable[[], float] = time.monotonic
    owner: Object | None = None
    """What the Lease is deleted with, as an owner reference; None: it stays."""
    _renewed: float | None = None
    """When a renewal that succeeded was begun."""
    _seen: tuple[str, float] = ("", 0.0)
    """The resource version seen last, and when it was new."""
    _transitions: int = 0
    _holder: str = field(default="", repr=False)

    def held(self) -> bool:
        """Whether nobody else may have taken it yet."""
        return self._renewed is not None and self.clock() - self._renewed < LASTS_SECONDS

    @property
    def age(self) -> float | None:
        """Seconds since the hold was confirmed; None: it isn't held."""
        return None if self._renewed is None else self.clock() - self._renewed

    @property
    def holder(self) -> str:
        """Who held it when it was looked at last."""
        return self._holder

    async def attempt(self) -> bool:
        """Takes or renews it, if nobody else has it. Raises `ApiError` when that can't be said; then it may still be
        held, until it has run out.
        """
        started = self.clock()
        path = single("leases", self.namespace, NAME)
        try:
            found = await self.api.request("GET", path, seconds=REQUEST_SECONDS)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            found = None
        if found is not None and not self._free(found):
            self._renewed = None
            return False
        try:
            await self._write(found)
        except ApiError as error:
            if error.status == CONFLICT:  # somebody was quicker
                self._renewed = None
                return False
            raise
        if self._renewed is None:
            structlog.get_logger("windlass.lease").info("lease.taken", identity=self.identity, before=self._holder)
        self._renewed, self._holder = started, self.identity
        return True

    async def release(self) -> None:
        """Gives it up, so that another can take over at once. Raises `ApiError`."""
        if not self.held():
            return
        path = single("leases", self.namespace, NAME)
        found = await self.api.request("GET", path, seconds=REQUEST_SECONDS)
        if (found.get("spec") or {}).get("holderIdentity") == self.identity:
            found["spec"] = {**found["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            await self.api.request("PUT", path, found, seconds=REQUEST_SECONDS)
        self._renewed = None

    def _free(self, found: Object) -> bool:
        spec = found.get("spec") or {}
        self._holder = str(spec.get("holderIdentity") or "")
        self._transitions = int(spec.get("leaseTransitions") or 0)
        version = str((found.get("metadata") or {}).get("resourceVersion"))
        now = self.clock()
        if self._seen[0] != version:
            self._seen = (version, now)
        if self._holder in ("", self.identity):
            return True
        lasts = min(int(spec.get("leaseDurationSeconds") or LASTS_SECONDS), 60)
        return now - self._seen[1] >= lasts

    async def _write(self, found: Object | None) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        before = (found or {}).get("spec") or {}
        ours = before.get("holderIdentity") == self.identity
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LASTS_SECONDS,
            "acquireTime": before.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": self._transitions + (found is not None and not ours),
        }
        if found is None:
            value = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": NAME, "namespace": self.namespace, **self._owned()},
                "spec": spec,
            }
            await self.api.request("POST", collection("leases", self.namespace), value, seconds=REQUEST_SECONDS)
            return
        found["metadata"].update(self._owned())
        found["spec"] = spec
        await self.api.request("PUT", single("leases", self.namespace, NAME), found, seconds=REQUEST_SECONDS)

    def _owned(self) -> Object:
        return {"ownerReferences": [self.owner]} if self.owner is not None else {}


async def deployment_as_owner(api: Api, namespace: str) -> Object | None:
    """A reference to the operator's Deployment. None where that can't be had: then the Lease outlives the operator,
    which harms nobody, and no start depends on it.
    """
    try:
        found = await api.request("GET", single("deployments", namespace, NAME), seconds=REQUEST_SECONDS)
    except ApiError as error:
        structlog.get_logger("windlass.lease").info("lease.without_owner", reason=str(error))
        return None
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME, "uid": found["metadata"]["uid"]}
