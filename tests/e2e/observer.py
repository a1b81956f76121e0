"""Asks each replica by its own address, again and again. Runs inside a container, with nothing but Python.

    python3 -c "$(cat observer.py)" NAME PORT PATH BODY EVERY

resolves NAME to find the replicas (newcomers too), posts BODY to each every EVERY seconds, one request after the answer
before, and writes a line of JSON for each answer until its standard input ends.
"""

import http.client
import json
import socket
import sys
import threading
import time


def ask(address, port, path, body, every, ended):
    """Until `ended`, or until the address has been silent for long."""
    connection = None
    heard = time.monotonic()
    while not ended.is_set() and time.monotonic() - heard < 20:
        sent = time.monotonic()
        version, epoch, status = "", "", 0
        try:
            connection = connection or http.client.HTTPConnection(address, port, timeout=5)
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
            version, epoch = answer.headers.get("X-Model-Version", ""), answer.headers.get("X-Plan-Epoch", "")
            heard = time.monotonic()
        except (OSError, http.client.HTTPException):
            connection = None
        done = time.monotonic()
        found = {"address": address, "sent": sent, "done": done, "status": status, "version": version, "epoch": epoch}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
        time.sleep(max(0.0, sent + every - done))


def main(name, port, path, body, every):
    """One thread for each address."""
    ended, known = threading.Event(), {}
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.is_set():
        try:
            addresses = {found[4][0] for found in socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)}
        except OSError:
            addresses = set()
        for address in addresses:
            if address not in known or not known[address].is_alive():
                known[address] = threading.Thread(target=ask, args=(address, port, path, body, every, ended))
                known[address].start()
        ended.wait(0.2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]))
