"""Names, versions, durations and shares, as users write them, and what each of them may look like."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

GROUP = "windlass.dev"
API_VERSION = f"{GROUP}/v1alpha1"

WORDS: dict[str, str] = {}
"""What each pattern asks for, in words."""


def like(pattern: str, words: str, *, longest: int | None = None, **bounds: int) -> Any:
    """A field of text that looks like `pattern`; `words` are what users read when it doesn't.

    `longest`: how long the pattern lets it be, for schemas; the API server weighs a rule by the length of its texts.
    """
    WORDS[pattern] = words
    extra: Any = None if longest is None else {"maxLength": longest}
    return Field(pattern=pattern, json_schema_extra=extra, **bounds)  # type: ignore[call-overload]  # takes no **


MAX_VERSION = 2**53 - 1
"""Versions are TensorFlow Serving's int64, kept to what every JSON parser reads exactly."""

_NAME = like(
    r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$",
    "write at most 63 letters, digits, '.', '_' and '-', with a letter or digit at both ends, as in cats-dogs",
    longest=63,
)

ModelName = Annotated[str, _NAME]
"""A model's name: it stands in URLs, labels of metrics and folders. No `/`, no `:`, at most 63 characters."""

ServerName = Annotated[
    str,
    like(
        r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        "write at most 63 small letters, digits and '-', with a letter or digit at both ends, as in cats-dogs",
        longest=63,
    ),
]
"""A server's name: a DNS label, since Kubernetes, Compose and Swarm name services so."""

ObjectName = Annotated[
    str,
    like(
        r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$",
        "write at most 253 small letters, digits, '-' and '.', with a letter or digit at both ends, as in cats-dogs-4",
        longest=253,
    ),
]
"""`metadata.name`: a DNS subdomain."""

Version = Annotated[int, Field(ge=0, le=MAX_VERSION, strict=True)]


def _key(value: object) -> object:
    """JSON's keys are text."""
    return int(value) if isinstance(value, str) and re.fullmatch("0|[1-9][0-9]{0,15}", value) else value


VersionKey = Annotated[Version, BeforeValidator(_key)]
"""A version as a key: a number in Python, its decimal digits in JSON."""

Digest = Annotated[
    str,
    like(
        r"^sha256:[0-9a-f]{64}$",
        "write sha256: and 64 hexadecimal digits in small letters; windlass pack prints a version's digest",
        longest=71,
    ),
]

Duration = Annotated[
    str,
    like(
        r"^([0-9]{1,6}h([0-9]{1,6}m)?([0-9]{1,6}s)?|[0-9]{1,6}m([0-9]{1,6}s)?|[0-9]{1,6}s)$",
        "write whole hours, minutes and seconds, as in 10m or 1h30m",
        longest=21,
    ),
]
"""Whole hours, minutes and seconds, as in `1h30m`, `10m` or `45s`."""

Percentage = Annotated[
    str,
    like(
        r"^(100(\.0)?|[0-9]{1,2}(\.[0-9])?)%$",
        "write a share from 0% to 100% with at most one decimal, as in 25% or 0.5%",
        longest=6,
    ),
]
"""A share with at most one decimal, as in `0.5%`: traffic is split in thousandths."""

Labels = Annotated[
    dict[Annotated[str, _NAME], Annotated[int, Field(ge=0, le=MAX_VERSION, strict=True)]], Field(max_length=32)
]
"""TensorFlow Serving's version labels: label to version."""


Revision = Annotated[
    str,
    like(
        r"^([a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?)?$",
        "write small letters, digits, '.', '_' and '-'",
        max_length=253,
    ),
]
"""Of a Pod template; empty: of none that the operator made."""

MAX_PATH = 1024
"""Characters of a path below the models' folder."""
MAX_URI = 2048
"""Characters of an artifact's URI."""


def stays_inside(path: str) -> bool:
    """Whether a relative path leads to a place below the folder that it is joined to.

    >>> stays_inside("cats/1"), stays_inside("/etc"), stays_inside("cats/../../etc")
    (True, False, False)
    """
    return (
        0 < len(path) <= MAX_PATH
        and not path.startswith("/")
        and ".." not in path.split("/")
        and not any(ord(letter) < 32 or ord(letter) == 127 for letter in path)
    )


def seconds(duration: str) -> int:
    """Length of a `Duration` in seconds.

    >>> seconds("1h2m3s")
    3723
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", duration)
    if match is None or not any(match.groups()):
        raise ValueError(f"{duration!r} is no duration: write whole hours, minutes and seconds, as in 10m or 1h30m")
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest


def thousandths(percentage: str) -> int:
    """A `Percentage` in thousandths.

    >>> thousandths("0.5%"), thousandths("100%")
    (5, 1000)
    """
    whole, _, decimal = percentage.removesuffix("%").partition(".")
    return int(whole) * 10 + int(decimal or 0)
