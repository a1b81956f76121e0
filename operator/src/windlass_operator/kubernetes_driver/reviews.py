"""Whose control token it is: the API server says which Pod, and the Pod's label which server.

By a review; where that isn't allowed, which is a right in the whole cluster, by the issuer's keys.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

from windlass_operator.control.auth import Identity
from windlass_operator.control.hub import NotActingError

from .api import FORBIDDEN, TOKEN_REVIEWS, Api, ApiError, Object
from .cluster import Seen
from .issuer import IssuerKeys, Who, expiry_of
from .objects import SeenPod

AUDIENCE = "windlass-operator"
GOOD_SECONDS = 300.0
"""For which the API server's word is taken at most, and no longer than the token itself is good for. That the Pod is
there still and whose label it has is looked at each time. With many replicas the reviews cost more than all else that
an idle operator asks of the API server."""
DOUBTFUL_SECONDS = 30.0
"""The same for a token that by our clock is good for less, or for nobody knows how long: the clock may be off."""
BAD_SECONDS = 5.0
FORBIDDEN_SECONDS = 300.0
"""For which nothing is reviewed after that was forbidden: the right may be given later."""
MAX_REMEMBERED = 10_000
_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"
_USER = "system:serviceaccount:"


class TokenReviews:
    """Identifies Pods by their projected service account tokens."""

    def __init__(
        self,
        api: Api,
        pods: Callable[[], Seen[SeenPod] | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._pods = pods
        self._clock = clock
        self._keys = IssuerKeys(api, AUDIENCE, clock)
        self._forbidden_until = clock()
        self._remembered: OrderedDict[bytes, tuple[Who | None, float]] = OrderedDict()
        """By hash of the token: whose it is (None: nobody's), and until when that is believed."""

    async def identify(self, token: str, server: str) -> Identity | None:  # noqa: ARG002 - as the protocol has it
        """The Pod's server; None: it is nobody's, or of a Pod that is no server's. Raises `NotActingError`."""
        pods = self._pods()
        if pods is None:
            raise NotActingError("this operator doesn't act; another one does")
        who = await self._who(token)
        if who is None:
            return None
        pod = pods.get(who[0], who[1])
        if pod is None or pod.uid != who[2] or not pod.server:
            return None
        return Identity(pod.server, pod.name, pod.namespace)

    async def _who(self, token: str) -> Who | None:
        key = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._remembered.get(key)
        now = self._clock()
        if known is not None and now < known[1]:
            return known[0]
        try:
            who = await self._ask(token)
        except ApiError as error:
            structlog.get_logger("windlass.reviews").warning("token.not_reviewed", error=str(error))
            raise NotActingError("whose control token it is can't be asked of the API server now") from error
        good = BAD_SECONDS if who is None else good_seconds(token, time.time())
        self._remembered[key] = (who, now + good)
        self._remembered.move_to_end(key)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return who

    async def _ask(self, token: str) -> Who | None:
        if self._clock() < self._forbidden_until:
            return await self._keys.who(token)
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        try:
            return pod_of_review(await self._api.request("POST", TOKEN_REVIEWS, body))
        except ApiError as error:
            if error.status != FORBIDDEN:
                raise
            self._forbidden_until = self._clock() + FORBIDDEN_SECONDS
            structlog.get_logger("windlass.reviews").info(
                "tokens.by_keys", reason=str(error), effect="control tokens are checked by the issuer's keys"
            )
            return await self._keys.who(token)


def good_seconds(token: str, at: float) -> float:
    """For how long the word is taken that a token is good; `at` is now, in seconds of the epoch."""
    left = expiry_of(token) - at
    return min(left, GOOD_SECONDS) if left > DOUBTFUL_SECONDS else DOUBTFUL_SECONDS


def pod_of_review(answer: Object) -> Who | None:
    """The Pod that a reviewed token was given to; None: it is none of a Pod for us."""
    status = answer.get("status") or {}
    user = status.get("user") or {}
    name = str(user.get("username") or "")
    if status.get("authenticated") is not True or AUDIENCE not in (status.get("audiences") or ()):
        return None
    extra = user.get("extra") or {}
    pod, uid = (extra.get(_POD_NAME) or [""])[0], (extra.get(_POD_UID) or [""])[0]
    if not name.startswith(_USER) or not pod or not uid:
        return None
    return name.removeprefix(_USER).partition(":")[0], pod, uid
