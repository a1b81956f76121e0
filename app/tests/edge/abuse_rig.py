"""A replica under abuse, and those who abuse it: `Front` measures what that costs and whom it slows."""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from windlass_testing.evidence import measured
from windlass_testing.load import Load, Request
from windlass_testing.one_machine import Replica, wait_until

MIB = 2**20
RATE = 50
"""Of the others."""
NOISE_MS = 100
"""By so much, and by a factor of three, two equal windows of a second differ where tests run side by side."""
PREDICT = "/v1/models/m:predict"
BODY = {"instances": [[1.0]]}


def rss(pid: int, field: str = "VmRSS") -> int:
    """Bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) * 1024


@dataclass
class Front:
    """The replica's own process, and someone who asks it all the time."""

    replica: Replica

    @property
    def pid(self) -> int:
        return self.replica.process.popen.pid

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.replica.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    @contextmanager
    def bounded(self, what: str, mib: float):
        """What happens inside costs the front process at most so much memory, and slows nobody else by more than
        noise: the same load is measured just before and just after."""
        before = self.usual()
        had = rss(self.pid)
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # the peak counts from now
        with self.load() as load:
            yield
            seen = len(load.answers)
            wait_until("the others went on", lambda: len(load.answers) > seen + RATE / 2)
        peak = (rss(self.pid, "VmHWM") - had) / MIB
        after = self.usual()
        shown = [[round(each.quantile(share) * 1000, 1) for each in (before, load, after)] for share in (0.5, 0.99)]
        measured(
            "abuse",
            f"{what}, beside {RATE} requests/s of others",
            f"front process at most +{peak:.0f} MiB (bound {mib:g}); others: {len(load.lost)} of {len(load.answers)} "
            f"lost, before / meanwhile / after: p50 {shown[0]} ms, p99 {shown[1]} ms",
            "make evidence",
        )
        assert (load.lost, load.wrong) == ([], [])
        assert peak < mib
        usually = max(shown[0][0], shown[0][2])
        assert shown[0][1] < 3 * usually + NOISE_MS, shown

    def load(self) -> Load:
        """Of the others."""
        asked = Request(PREDICT, BODY, lambda body, _: "" if body == {"predictions": [[2.0]]} else "wrong")
        return Load(self.replica.url, [asked], rate=RATE, senders=4)

    def usual(self) -> Load:
        """What there is to compare with."""
        with self.load() as load:
            wait_until("it has been measured", lambda: len(load.answers) >= 2 * RATE)
        return load

    def post(self, path: str, content: bytes, **headers: str) -> Posted:
        return self.posts(1, path, content, **headers)[0]

    def posts(self, count: int, path: str, content: bytes, **headers: str) -> list[Posted]:
        """So many at once, sent by another process: this one measures."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        done = subprocess.run(
            ["python3", "-c", POST, *map(str, self.address), path, json.dumps(names), str(count)],
            input=content, capture_output=True, check=True, timeout=170,
        )  # fmt: skip
        return [Posted(*each) for each in json.loads(done.stdout)]


@dataclass
class Posted:
    """What came back."""

    status_code: int
    text: str

    def json(self):
        return json.loads(self.text)


POST = """
import http.client, json, sys
from concurrent.futures import ThreadPoolExecutor
host, port, path, headers, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]), int(sys.argv[5])
content = sys.stdin.buffer.read()
def post(_):
    connection = http.client.HTTPConnection(host, port, timeout=120)
    try:
        connection.request("POST", path, content, headers)
    except OSError:
        pass  # it may have been answered before all was sent
    try:
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, "no answer"
with ThreadPoolExecutor(count) as pool:
    print(json.dumps(list(pool.map(post, range(count)))))
"""


def trickle(front: Front, heads: list[bytes], byte: bytes) -> list[bytes]:
    """Opens a connection for each head and sends a byte on it every half second, until it is answered. Gives the
    answers' beginnings."""
    answers: list[bytes] = []
    with selectors.DefaultSelector() as open_yet, ExitStack() as stack:
        for head in heads:
            client = stack.enter_context(socket.create_connection(front.address))
            client.sendall(head)
            open_yet.register(client, selectors.EVENT_READ)
        deadline, next_byte = time.monotonic() + 60, time.monotonic()
        while open_yet.get_map() and time.monotonic() < deadline:
            if time.monotonic() >= next_byte:
                next_byte += 0.5
                for key in list(open_yet.get_map().values()):
                    with suppress(ConnectionError):  # its answer says why
                        key.fileobj.send(byte)
            for key, _ in open_yet.select(max(next_byte - time.monotonic(), 0)):
                open_yet.unregister(key.fileobj)
                answers.append(key.fileobj.recv(4096))
    return answers


UPLOAD = """
import json, resource, select, socket, sys
from concurrent.futures import ThreadPoolExecutor
host, port, path, count, size = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
head = f"POST {path} HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: {size}\\r\\n\\r\\n".encode()
content = b" " * (size - 1)
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
def upload(_):
    client = socket.create_connection((host, port))
    client.settimeout(120)
    try:
        client.sendall(head + content)
    except OSError:
        pass  # refused meanwhile
    return client
def status(client):
    poll = select.poll()
    poll.register(client, select.POLLIN)
    if not poll.poll(0):
        return None
    try:
        return int(client.recv(4096).split()[1])
    except (OSError, IndexError):
        return 0
with ThreadPoolExecutor(min(count, 40)) as pool:
    clients = list(pool.map(upload, range(count)))
    print("sent", flush=True)
    sys.stdin.readline()
    print(json.dumps(list(pool.map(status, clients))), flush=True)
"""


def upload(front: Front, count: int, size: int) -> list[int | None]:
    """So many clients send all but the last byte of so large a body, from another process. Gives what each was answered
    then: None, its body is held; 0, it was cut off before it read the answer."""
    with subprocess.Popen(
        ["python3", "-c", UPLOAD, *map(str, front.address), PREDICT, str(count), str(size)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as clients:  # fmt: skip
        assert clients.stdout.readline() == "sent\n"
        wait_until("the server has read what was sent", lambda: unread_bytes(front.address[1]) == 0)
        assert front.replica.get("/livez").status_code == 200  # and done what comes of it
        print(file=clients.stdin, flush=True)
        answers: list[int | None] = json.loads(clients.stdout.readline())
    return answers


ASK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
host, port, path, count, head_bytes = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
body = sys.stdin.buffer.read()
head = f"POST {path} HTTP/1.1\\r\\nhost: x\\r\\ninference-header-content-length: {head_bytes}\\r\\n"
request = (head + f"content-length: {len(body)}\\r\\n\\r\\n").encode() + body
clients = []
def ask(_):
    client = socket.socket()
    clients.append(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(120)
    try:
        client.connect((host, port))
        client.sendall(request)
    except OSError:
        pass  # refused meanwhile
    try:
        return int(client.recv(100).split()[1])
    except (OSError, IndexError):
        return 0
with ThreadPoolExecutor(4) as pool:
    print(json.dumps(list(pool.map(ask, range(count)))), flush=True)
"""


def ask_and_not_take(front: Front, count: int, path: str, head: bytes, tail: bytes) -> list[int]:
    """So many requests, some at a time, whose answers are taken no further than to their status; it is given. 0: cut
    off. The connections stand until all are answered."""
    done = subprocess.run(
        ["python3", "-c", ASK, *map(str, front.address), path, str(count), str(len(head))],
        input=head + tail, capture_output=True, check=True, timeout=170,
    )  # fmt: skip
    statuses: list[int] = json.loads(done.stdout)
    return statuses


def unread_bytes(port: int) -> int:
    """That have arrived on connections of a port of this machine, and that nobody has taken."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(row[4].partition(":")[2], 16)
        for row in rows
        if int(row[1].partition(":")[2], 16) == port and row[3] == "01"  # established
    )
