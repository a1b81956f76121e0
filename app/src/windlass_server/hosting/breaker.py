"""The local breaker: takes a version's traffic away while another one can have it. Pure; the clock is given.

It looks at the last `WINDOW_REQUESTS` requests that named no version, of the last `WINDOW_SECONDS`. Open, it stays so
until the plan says something else about who serves the model: the same plan with traffic put back would only fail anew.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.plan import Breaker, ModelPlan, ServingPlan
from windlass_server.hosting.order import Key

DEFAULT = Breaker()
"""When the plan says nothing."""
WINDOW_REQUESTS = 100
WINDOW_SECONDS = 120.0
CRASH_WEIGHT = 5
"""A crash counts as this many failed requests, however many were in the worker: it takes the version away for seconds.
So one alone never opens a breaker by default, and four in a row do."""


@dataclass
class Window:
    """One version's last requests."""

    _requests: deque[tuple[float, bool]] = field(default_factory=deque)
    _failed: int = 0

    def note(self, *, failed: bool, now: float, times: int = 1) -> None:
        """Takes a request in."""
        requests, oldest = self._requests, now - WINDOW_SECONDS
        for _ in range(times):
            requests.append((now, failed))
            self._failed += failed
        while requests and (len(requests) > WINDOW_REQUESTS or requests[0][0] < oldest):
            self._failed -= requests.popleft()[1]

    def trips(self, breaker: Breaker) -> bool:
        """Whether there is enough against the version."""
        count = len(self._requests)
        return count >= min(breaker.min_requests, WINDOW_REQUESTS) and (
            self._failed * 1000 > breaker.max_error_rate * count
        )

    def __str__(self) -> str:
        return f"{self._failed} of its last {len(self._requests)} requests failed by its own fault"


class Breakers:
    """Those of all versions that a plan names."""

    def __init__(self) -> None:
        self._shapes: dict[str, object] = {}
        self._settings: dict[str, Breaker] = {}
        self._windows: dict[Key, Window] = {}
        self._crashed: set[tuple[Key, int]] = set()
        self._open: dict[Key, Failure] = {}

    def follow(self, plan: ServingPlan) -> None:
        """Takes a plan: where it changes who serves a model, the model's breakers close and forget."""
        shapes = {name: _shape(model) for name, model in plan.models.items()}
        for name in {*self._shapes, *shapes}:
            if self._shapes.get(name) != shapes.get(name):
                self._windows = {key: window for key, window in self._windows.items() if key.model != name}
                self._crashed = {each for each in self._crashed if each[0].model != name}
                self._open = {key: why for key, why in self._open.items() if key.model != name}
        self._shapes = shapes
        self._settings = {name: model.breaker or DEFAULT for name, model in plan.models.items()}

    def note(self, key: Key, *, failed: bool, now: float) -> bool:
        """Takes in how a request ended. Returns whether this opened the breaker."""
        return self._take(key, 1, failed=failed, now=now)

    def crashed(self, key: Key, worker: int, *, now: float) -> bool:
        """Takes a crash in, once per worker. Returns whether this opened the breaker."""
        if (key, worker) in self._crashed:
            return False
        self._crashed.add((key, worker))
        return self._take(key, CRASH_WEIGHT, failed=True, now=now)

    def trip(self, key: Key, failure: Failure) -> bool:
        """Opens a breaker for something that must not happen twice. Returns whether it was closed."""
        if key in self._open or key.model not in self._settings:
            return False
        self._open[key] = failure
        return True

    @property
    def open(self) -> dict[Key, Failure]:
        """Whose breaker is open, and why."""
        return self._open

    def _take(self, key: Key, times: int, *, failed: bool, now: float) -> bool:
        if key in self._open or key.model not in self._settings:
            return False
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = Window()
        window.note(failed=failed, now=now, times=times)
        if not failed or not window.trips(self._settings[key.model]):
            return False
        self._open[key] = Failure(gate=Gate.ERROR_RATE, reason=Reason.ERROR_RATE_EXCEEDED, message=str(window))
        return True


def _shape(model: ModelPlan) -> object:
    """Who serves: what is merely carried along in a plan (quarantine, decisions) doesn't count."""
    versions = tuple((each.version, each.digest, each.weight) for each in model.versions)
    return model.committed, model.previous, model.candidate, versions, model.breaker
