"""Runs in a Pod: asks each replica by its address every 20 ms, and says when what it answers with changes.

Addresses in ADDRESSES, separated by commas; the model in MODEL. Writes one line of JSON per change until it is ended;
`at` is this machine's monotonic clock, which all its containers share: `boot` says which machine, and since when.
"""

import http.client
import json
import os
import threading
import time
from pathlib import Path

BODY = json.dumps({"instances": [[1.0]]})
PATH = f"/v1/models/{os.environ['MODEL']}:predict"
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
one_at_a_time = threading.Lock()


def observe(address: str) -> None:
    """One replica, on one connection; a lost one is made anew."""
    before, connection = None, http.client.HTTPConnection(address, 8000, timeout=10)
    while True:
        started = time.monotonic()
        try:
            connection.request("POST", PATH, BODY, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            seen = (answer.getheader("X-Model-Version"), answer.getheader("X-Plan-Epoch"))
        except (OSError, http.client.HTTPException) as error:
            seen = (repr(error), None)
            connection.close()
        if seen != before:
            line = {"address": address, "at": time.monotonic(), "version": seen[0], "epoch": seen[1], "boot": BOOT}
            with one_at_a_time:
                print(json.dumps(line), flush=True)
            before = seen
        time.sleep(max(0.0, started + 0.02 - time.monotonic()))


for each in os.environ["ADDRESSES"].split(","):
    threading.Thread(target=observe, args=(each,)).start()
