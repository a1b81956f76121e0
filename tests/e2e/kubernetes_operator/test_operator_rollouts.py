"""From `kubectl apply` to the committed version, and what people see of it."""

from __future__ import annotations

import pytest

from windlass_testing.following import wait_until

pytestmark = pytest.mark.lab


def test_an_applied_version_is_committed_and_people_see_it(stage) -> None:
    operator = stage.operator()
    first, second = stage.replica("r1"), stage.replica("r2")
    stage.apply("m-1", 1)
    stage.await_committed(1)
    wait_until(lambda: (first.committed, second.committed) == ([None, 1], [None, 1]), stage.seen)
    stage.await_phase("m-1", "Serving")
    stage.apply("m-2", 2)
    stage.await_committed(2)
    stage.await_phase("m-2", "Serving")
    status = stage.status("m-2")
    assert status["replicas"] == {"desired": 2, "prepared": 2, "committed": 2}
    assert status["observedGeneration"] == 1
    assert stage.condition("m-2", "Ready")["status"] == "True"
    table = stage.namespace.kubectl("get", "mv")
    assert "SERVER" in table
    assert "Serving" in table
    wait_until(lambda: ("m-2", "Committed") in stage.events(), stage.events)
    assert operator.stop() == 0
