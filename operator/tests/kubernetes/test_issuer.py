"""Control tokens by the issuer's keys: real keys and signatures, no API server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from windlass_operator.kubernetes_driver.api import ApiError
from windlass_operator.kubernetes_driver.issuer import (
    CONFIGURATION,
    FAILED_SECONDS,
    KEYS,
    UNKNOWN_KEY_SECONDS,
    IssuerKeys,
    keys_of,
)
from windlass_testing import connections_closed

ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIENCE = "windlass-operator"
RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
POD = {"namespace": "vision", "pod": {"name": "p", "uid": "u"}, "serviceaccount": {"name": "default", "uid": "s"}}


def published(kid: str, key: Any, algorithm: str) -> dict[str, Any]:
    form = jwt.algorithms.ECAlgorithm if algorithm.startswith("ES") else jwt.algorithms.RSAAlgorithm
    return {**json.loads(form.to_jwk(key.public_key())), "kid": kid, "alg": algorithm, "use": "sig"}


class Server:
    """Answers as the API server does, and counts."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.away = False

    async def request(self, verb: str, path: str, *, accept: str = "application/json") -> dict[str, Any]:
        self.asked += 1
        if self.away or (path == KEYS and accept != "application/jwk-set+json"):
            raise ApiError(f"{verb} {path}: out of reach")
        return {"issuer": ISSUER} if path == CONFIGURATION else {"keys": self.keys}


def token(key: Any = RSA, algorithm: str = "RS256", kid: str = "one", **claims: Any) -> str:
    now = int(time.time())
    said = {"iss": ISSUER, "aud": [AUDIENCE], "sub": "system:serviceaccount:vision:default"}
    said |= {"iat": now, "nbf": now, "exp": now + 600, "kubernetes.io": POD, **claims}
    present = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(present, key, algorithm=algorithm, headers={"kid": kid})


def issuer(*keys: dict[str, Any], **options: Any) -> IssuerKeys:
    server: Any = Server(*(keys or (published("one", RSA, "RS256"), published("two", CURVE, "ES256"))))
    return IssuerKeys(server, AUDIENCE, **options)


def long_ago(seconds: float) -> int:
    return int(time.time() - seconds)


@pytest.mark.parametrize(
    ("made", "known"),
    [
        (token, True),
        (lambda: token(CURVE, "ES256", "two"), True),
        (lambda: token(OTHER), False),
        (lambda: token(kid="three"), False),
        (lambda: token(RSA, "RS512"), False),  # not what the key is for
        (lambda: token("a secret that is long enough for HMAC-SHA256", "HS256"), False),
        (lambda: token(None, "none"), False),
        (lambda: token(aud=["https://kubernetes.default.svc"]), False),
        (lambda: token(aud=None), False),
        (lambda: token(iss="https://elsewhere"), False),
        (lambda: token(exp=long_ago(60)), False),
        (lambda: token(exp=None), False),
        (lambda: token(nbf=long_ago(-600)), False),
        (lambda: token(**{"kubernetes.io": None}), False),
        (lambda: token(**{"kubernetes.io": {"namespace": "vision", "serviceaccount": {"name": "default"}}}), False),
        (lambda: token(**{"kubernetes.io": {**POD, "pod": {"name": "p", "uid": 1}}}), False),
        (lambda: token(**{"kubernetes.io": ["vision"]}), False),
        (lambda: "nonsense", False),
        (lambda: "a.b.c", False),
        (lambda: "", False),
    ],
)
def test_only_tokens_of_pods_for_us_that_the_issuer_signed_are_known(made: Callable[[], str], known: bool) -> None:
    """Tokens are made here, not when tests are collected: they are good for ten minutes."""
    assert connections_closed.run(issuer().who(made())) == (("vision", "p", "u") if known else None)


def test_keys_are_read_once_and_again_when_they_were_rotated() -> None:
    now = [1000.0]
    server: Any = Server(published("one", RSA, "RS256"))
    keys = IssuerKeys(server, AUDIENCE, lambda: now[0])

    async def ask(given: str) -> Any:
        return await keys.who(given)

    assert connections_closed.run(ask(token())) is not None
    assert connections_closed.run(ask(token())) is not None
    assert server.asked == 2, "issuer and keys"
    server.keys.append(published("new", OTHER, "RS256"))
    assert connections_closed.run(ask(token(OTHER, kid="new"))) is None, "nonsense must not make it ask each time"
    assert server.asked == 2
    now[0] += UNKNOWN_KEY_SECONDS + 1
    assert connections_closed.run(ask(token(OTHER, kid="new"))) == ("vision", "p", "u")


def test_without_the_api_server_nobody_is_refused_for_good() -> None:
    server: Any = Server(published("one", RSA, "RS256"))
    server.away = True
    now = [1000.0]
    keys = IssuerKeys(server, AUDIENCE, lambda: now[0])
    for _ in range(3):
        with pytest.raises(ApiError):
            connections_closed.run(keys.who(token()))
    assert server.asked == 1, "it isn't asked for each request"
    server.away = False
    now[0] += FAILED_SECONDS + 1
    assert connections_closed.run(keys.who(token())) is not None


@pytest.mark.parametrize("value", [{}, {"keys": None}, {"keys": [None, {}, {"kty": "oct", "k": "AA", "kid": "x"}]}])
def test_keys_that_are_none_are_passed_over(value: Any) -> None:
    assert keys_of(value) == {}
