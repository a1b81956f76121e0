"""Acceptance samples on a cluster: the key `samples.json` of a ConfigMap in the ModelVersion's namespace."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from windlass_contract.model_version import State
from windlass_operator.driving.samples import NO_SAMPLES, Samples, SamplesChecker

from .api import NOT_FOUND, Api, ApiError, single
from .objects import SeenObject

KEY = "samples.json"
GOOD_SECONDS = 60.0
"""After which samples that were valid are read again: nobody tells when a ConfigMap without our label changes."""
BAD_SECONDS = 3.0

_Where = tuple[str, str, str | None]
"""Namespace and name of the ConfigMap, and the digest that is asked for."""


@dataclass
class _Read:
    samples: Samples
    again_at: float


class SamplesOfConfigMaps:
    """What was read of the samples that ModelVersions ask for."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._checker = SamplesChecker()
        self._read: dict[_Where, _Read] = {}

    def get(self, seen: SeenObject) -> Samples:
        """The samples of a ModelVersion, as far as they were read."""
        source = seen.model_version.spec.verify.samples if seen.model_version is not None else None
        if source is None:
            return NO_SAMPLES
        if source.config_map is None:
            field = "uri" if source.uri is not None else "file"
            return Samples(
                problem=f"spec.verify.samples.{field} isn't supported on a cluster: put the samples into the key {KEY} "
                "of a ConfigMap and name it in spec.verify.samples.configMap"
            )
        read = self._read.get((seen.namespace, source.config_map, source.digest))
        return read.samples if read is not None else Samples(problem=f"ConfigMap {source.config_map} isn't read yet")

    async def refresh(self, wanted: Iterable[SeenObject]) -> set[str]:
        """Reads what is due, and forgets what nobody asks for; returns the keys of the servers that it is news to."""
        asked: dict[_Where, set[str]] = {}
        for seen in wanted:
            spec = seen.model_version.spec if seen.model_version is not None else None
            source = spec.verify.samples if spec is not None else None
            if spec is not None and source is not None and source.config_map and spec.state is State.ACTIVE:
                where = (seen.namespace, source.config_map, source.digest)
                asked.setdefault(where, set()).add(f"{seen.namespace}/{seen.server}")
        self._read = {where: read for where, read in self._read.items() if where in asked}
        news: set[str] = set()
        for where, servers in asked.items():
            before = self._read.get(where)
            if before is not None and self._clock() < before.again_at:
                continue
            samples = await self._fetch(where)
            pause = GOOD_SECONDS if samples.digest is not None else BAD_SECONDS
            self._read[where] = _Read(samples, self._clock() + pause)
            if before is None or before.samples != samples:
                news |= servers
        return news

    async def _fetch(self, where: _Where) -> Samples:
        namespace, name, digest = where
        source = f"ConfigMap {name}"
        try:
            value = await self._api.request("GET", single("configmaps", namespace, name))
        except ApiError as error:
            if error.status == NOT_FOUND:
                return Samples(problem=f"there is no ConfigMap {name} in namespace {namespace}; make it")
            return Samples(problem=f"{source} can't be read: {error}")
        text, binary = (value.get("data") or {}).get(KEY), (value.get("binaryData") or {}).get(KEY)
        if text is None and binary is None:
            return Samples(problem=f"{source} has no key {KEY}; put the samples there")
        try:
            data = text.encode() if text is not None else base64.b64decode(binary or "", validate=True)
        except (ValueError, binascii.Error) as error:
            return Samples(problem=f"{source}, key {KEY}: {error}")
        return self._checker.check(data, f"{source}, key {KEY}", digest)
