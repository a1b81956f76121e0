"""Control tokens by reviews: when the API server is asked, and when its word still counts."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from windlass_operator.kubernetes_driver.cluster import Seen
from windlass_operator.kubernetes_driver.objects import SeenPod, pod_of
from windlass_operator.kubernetes_driver.reviews import (
    BAD_SECONDS,
    DOUBTFUL_SECONDS,
    GOOD_SECONDS,
    TokenReviews,
    good_seconds,
)
from windlass_testing import connections_closed

NOW = 1_900_000_000.0
SECRET = "long enough a secret for a signature that nobody looks at"


def token(**claims: Any) -> str:
    return jwt.encode({"sub": "system:serviceaccount:vision:default", **claims}, SECRET, algorithm="HS256")


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (token(exp=NOW + 3600), GOOD_SECONDS),
        (token(exp=NOW + 120), 120.0),
        (token(exp=NOW + 5), DOUBTFUL_SECONDS),
        (token(exp=NOW - 600), DOUBTFUL_SECONDS),  # the API server has just said that it is good: our clock is off
        (token(), DOUBTFUL_SECONDS),
        ("opaque", DOUBTFUL_SECONDS),
    ],
)
def test_a_review_counts_no_longer_than_its_token(given: str, seconds: float) -> None:
    assert good_seconds(given, NOW) == seconds


class Server:
    """Reviews tokens as the API server does, and counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.good = True

    async def request(self, verb: str, path: str, body: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        self.asked += 1
        extra = {"authentication.kubernetes.io/pod-name": ["p"], "authentication.kubernetes.io/pod-uid": ["u"]}
        user = {"username": "system:serviceaccount:vision:default", "extra": extra}
        status = {"authenticated": self.good, "audiences": body["spec"]["audiences"], "user": user}
        return {"status": status}


def pod(uid: str = "u", version: int = 1) -> SeenPod:
    metadata = {"name": "p", "namespace": "vision", "uid": uid, "resourceVersion": str(version)}
    return pod_of({"metadata": {**metadata, "labels": {"windlass.dev/server": "cats"}}})


def test_a_token_is_reviewed_once_and_its_pod_looked_at_each_time() -> None:
    server: Any = Server()
    now = [1000.0]
    pods: Seen[SeenPod] = Seen()
    pods.put(pod())
    reviews = TokenReviews(server, lambda: pods, lambda: now[0])
    given = token(exp=time.time() + 3600)

    def identity() -> Any:
        return connections_closed.run(reviews.identify(given, "cats"))

    for _ in range(3):
        assert (identity().server, identity().replica, identity().namespace) == ("cats", "p", "vision")
    assert server.asked == 1
    now[0] += GOOD_SECONDS - 1
    assert identity() is not None
    assert server.asked == 1
    pods.put(pod("another", 2))
    assert identity() is None, "its Pod is gone; there is one of the same name"
    pods.put(pod("u", 3))
    server.good = False
    now[0] += 2
    assert identity() is None, "it was asked for again"
    server.good = True
    assert (identity(), server.asked) == (None, 2)
    now[0] += BAD_SECONDS + 1
    assert identity() is not None
