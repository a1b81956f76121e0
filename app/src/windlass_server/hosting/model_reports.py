"""What a host tells of each model: states, routes and open breakers. A pure function of what it holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from windlass_contract.failures import Failure
from windlass_contract.report import ModelReport, VersionReport
from windlass_server.hosting.order import Key
from windlass_server.hosting.router import ModelRoutes
from windlass_server.hosting.slot import Slot


def model_report(
    name: str,
    slots: Iterable[Slot],
    routes: ModelRoutes[Slot],
    planned: Collection[Key],
    breakers: Mapping[Key, Failure],
) -> ModelReport:
    """`slots`: all that are held, of any model. `planned`: the keys that the plan names. `breakers`: those open."""
    versions: dict[int, VersionReport] = {}
    for slot in sorted((slot for slot in slots if slot.key.model == name), key=lambda slot: slot.key):
        # Of two with the same number, the one that the plan names is told of.
        if slot.key in planned or slot.key.version not in versions:
            opened = {"breaker": breakers[slot.key]} if slot.key in breakers else {}
            versions[slot.key.version] = slot.report().model_copy(update=opened)
    return ModelReport(
        versions=list(versions.values()),
        serving=routes.serving(),
        lagging=routes.lagging,
        breaker_open=any(key.model == name for key in breakers),
    )
