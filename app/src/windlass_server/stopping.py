"""Closing a port without resetting anyone who is already through.

Whoever closes a listening socket resets the connections that wait in its queue, and whoever closes a connection on
which a request is on its way resets that one. So the port first takes no new connections, those that are there get the
time to say what they came for, and only then it is closed.
"""

from __future__ import annotations

import asyncio
import ctypes
import select
import socket
import struct
import sys
from collections.abc import Callable, Collection

LINGER_SECONDS = 1.0
"""A connection that was opened without a request is given at most so long to send one."""
_STEP_SECONDS = 0.02
_SO_ATTACH_FILTER = 26
# Classic BPF on the TCP header: load the flags, drop what has SYN set, keep the rest.
_DROP_SYN = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
)


def take_no_more(listener: socket.socket) -> None:
    """New connections find nobody from now on: their SYN is dropped, the kernel sends it again after a second, and then
    the port is closed. Those that are through stay in the queue. Where the kernel has no such filter (it is Linux'), or
    keeps it for administrators of the network, the queue takes one connection at a time instead of many."""
    if sys.platform == "linux":
        code = ctypes.create_string_buffer(_DROP_SYN)
        program = struct.pack("HP", len(_DROP_SYN) // 8, ctypes.addressof(code))
        try:
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        except PermissionError:
            pass
        else:
            return
    listener.listen(0)


async def settle(listeners: Collection[socket.socket], unheard: Callable[[], int]) -> None:
    """Returns when the queues are empty and `unheard`, the number of connections that haven't sent a request yet, is
    0; after `LINGER_SECONDS` in any case."""
    for listener in listeners:
        take_no_more(listener)
    clock = asyncio.get_running_loop().time
    start = clock()
    queues = select.poll()
    for listener in listeners:
        queues.register(listener, select.POLLIN)
    # Two looks in a row: what was accepted in one turn is heard in the next.
    quiet = 0
    while quiet < 2 and clock() - start < LINGER_SECONDS:
        await asyncio.sleep(_STEP_SECONDS)
        quiet = 0 if queues.poll(0) or unheard() else quiet + 1
