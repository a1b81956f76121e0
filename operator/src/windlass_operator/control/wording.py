"""How a report is worded but for its sequence: one that repeats the report before needs no reading.

That is what quiet replicas send, and to decode and check it anew each time is most of what an idle operator does.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

MAX_BYTES = 64 * 1024
"""Of a report that is summed up on the event loop."""
_SEQUENCE = re.compile(rb'(?<!\\)"sequence": ?(0|[1-9][0-9]{0,15})(?=[,}])')


@dataclass(frozen=True)
class Wording:
    """A report as it came."""

    digest: bytes
    """Over all but the sequence's digits. The instance is in it: no other one's report has the same."""
    sequence: int


def wording_of(body: bytes) -> Wording | None:
    """None: the report is long, or its sequence doesn't catch the eye. Then it has to be read."""
    if len(body) > MAX_BYTES or body.count(b'"sequence"') != 1:
        return None
    match = _SEQUENCE.search(body)
    if match is None:
        return None
    # The mark is no part of any JSON: where the digits stood counts too.
    return Wording(hashlib.sha256(body[: match.start(1)] + b"\0" + body[match.end(1) :]).digest(), int(match[1]))
