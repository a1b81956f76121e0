"""Whose control token it is by the keys of who issued it, for clusters where tokens may not be reviewed.

Keys and issuer are asked of the API server itself, as each service account may; no address in a token or in an answer
is followed. That the Pod is still there is looked at by who asks, as with a review.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from .api import Api, ApiError

CONFIGURATION = "/.well-known/openid-configuration"
KEYS = "/openid/v1/jwks"
KEY_SET = "application/jwk-set+json"
"""The API server gives keys as nothing else."""
KEYS_SECONDS = 3600.0
"""After which the keys are read anew."""
UNKNOWN_KEY_SECONDS = 30.0
"""Between reads because of a token whose key isn't known: keys are rotated, and nonsense is cheap to send."""
FAILED_SECONDS = 2.0
"""Between tries to read them."""
LEEWAY_SECONDS = 10.0
"""Between our clock and the issuer's."""
ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")

Who = tuple[str, str, str]
"""Namespace, name and uid of a Pod."""


class IssuerKeys:
    """Reads the Pod out of tokens that the cluster's issuer signed."""

    def __init__(self, api: Api, audience: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._audience = audience
        self._clock = clock
        self._issuer = ""
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._read_at: float | None = None
        self._failure: tuple[ApiError, float] | None = None
        """Why they couldn't be read, and until when that is believed: replicas ask many times a second."""

    async def who(self, token: str) -> Who | None:
        """The Pod; None: the token is none of a Pod for us, or nobody's. Raises `ApiError`."""
        try:
            name = str(jwt.get_unverified_header(token).get("kid") or "")
        except jwt.InvalidTokenError:
            return None
        await self._refresh(name)
        key = self._keys.get(name)
        return None if key is None else pod_of_token(token, key, self._issuer, self._audience)

    async def _refresh(self, name: str) -> None:
        age = None if self._read_at is None else self._clock() - self._read_at
        if age is not None and age < (KEYS_SECONDS if name in self._keys else UNKNOWN_KEY_SECONDS):
            return
        if self._failure is not None and self._clock() < self._failure[1]:
            raise self._failure[0]
        try:
            self._issuer, self._keys = await self._read()
        except ApiError as error:
            self._failure = error, self._clock() + FAILED_SECONDS
            raise
        self._read_at, self._failure = self._clock(), None

    async def _read(self) -> tuple[str, Mapping[str, jwt.PyJWK]]:
        issuer = (await self._api.request("GET", CONFIGURATION)).get("issuer")
        if not isinstance(issuer, str) or not issuer:
            raise ApiError(f"GET {CONFIGURATION}: it names no issuer")
        return issuer, keys_of(await self._api.request("GET", KEYS, accept=KEY_SET))


def keys_of(answer: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """The keys that can be used, by their ids."""
    keys = {}
    for value in answer.get("keys") or ():
        try:
            key = jwt.PyJWK.from_dict(value)
        except (jwt.PyJWTError, TypeError, AttributeError):
            continue  # of a kind that we don't take
        if key.key_id and key.algorithm_name in ALGORITHMS:
            keys[key.key_id] = key
    return keys


def expiry_of(token: str) -> float:
    """When a token ends, by its own word, in seconds of the epoch; 0: it doesn't say. For tokens known to be good."""
    try:
        end = jwt.decode(token, options={"verify_signature": False}).get("exp")
    except jwt.InvalidTokenError:
        return 0.0
    return float(end) if isinstance(end, int | float) else 0.0


def pod_of_token(token: str, key: jwt.PyJWK, issuer: str, audience: str) -> Who | None:
    """The Pod that a token was made for; None: signature, time, issuer or audience isn't right, or it is no Pod's."""
    try:
        claims = jwt.decode(
            token,
            key,
            # The key's own: a token may not choose how it is checked.
            algorithms=[key.algorithm_name],
            audience=audience,
            issuer=issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
    except jwt.InvalidTokenError:
        return None
    bound = claims.get("kubernetes.io")
    pod = bound.get("pod") if isinstance(bound, dict) else None
    if not isinstance(bound, dict) or not isinstance(pod, dict):
        return None
    found = (bound.get("namespace"), pod.get("name"), pod.get("uid"))
    namespace, name, uid = (each if isinstance(each, str) else "" for each in found)
    return (namespace, name, uid) if namespace and name and uid else None
