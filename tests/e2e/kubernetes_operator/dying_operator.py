"""The operator's command, which kills itself at one of its writes: `dying_operator.py NUMBER before|after …`.

Writes are counted from 1: every request that changes an object of the cluster, but for renewals of the Lease.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from windlass_operator.kubernetes_driver.api import Api
from windlass_operator.main import main

at, when = int(sys.argv[1]), sys.argv[2]
numbers = itertools.count(1)
request = Api.request


async def dying(self: Api, verb: str, path: str, *arguments: Any, **options: Any) -> Any:
    counts = verb != "GET" and "/leases" not in path and "/tokenreviews" not in path
    number = next(numbers) if counts else 0
    if number == at and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    answer = await request(self, verb, path, *arguments, **options)
    if number == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer


Api.request = dying  # type: ignore[method-assign]
sys.argv = ["windlass-operator", *sys.argv[3:]]
main()
