"""The operator's command on a machine whose clock is off: `shifted_operator.py SECONDS …`."""

from __future__ import annotations

import datetime as dt
import sys
import time

import windlass_contract.model_version  # noqa: F401 - pydantic has to know the real class

offset = float(sys.argv[1])
clock, real = time.time, dt.datetime


class OfTheRealClass(type):
    """Other packages ask whether a time is one."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, real)


class Shifted(real, metaclass=OfTheRealClass):
    """Tells another time."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
        return real.now(tz) + dt.timedelta(seconds=offset)


time.time = lambda: clock() + offset
dt.datetime = Shifted  # type: ignore[misc]

from windlass_operator.main import main  # noqa: E402 - with this clock

sys.argv = ["windlass-operator", *sys.argv[2:]]
main()
