"""The operator's command on a machine whose clock is off: `shifted_operator.py SECONDS …`."""

from __future__ import annotations

import datetime as dt
import sys
import time

import windlass_operator.kubernetes_driver.running  # noqa: F401 - all that looks at a clock
from windlass_operator.main import main

offset = float(sys.argv[1])
clock = time.time


class Shifted(dt.datetime):
    """Tells another time."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
        return dt.datetime.now(tz) + dt.timedelta(seconds=offset)


time.time = lambda: clock() + offset
ours = [module for name, module in sys.modules.items() if name.startswith("windlass_operator")]
for module in ours:
    if getattr(module, "datetime", None) is dt.datetime:
        module.datetime = Shifted  # type: ignore[attr-defined]

sys.argv = ["windlass-operator", *sys.argv[2:]]
main()
