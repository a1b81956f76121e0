"""Large bodies that are sent at the same time, each held back just before its end until all the others are as far."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_PIECE = 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """What came back for one of them."""

    status: int
    headers: dict[str, str]
    """Names in small letters."""
    body: Any


def send_together(url: str, content: bytes, size: int, count: int, meanwhile: Callable[[], None]) -> list[Answer]:
    """POSTs a JSON object, with spaces before its last byte so that it has `size` bytes, over `count` connections.
    `meanwhile` is called when each of them lacks that byte alone, or was answered before."""
    return asyncio.run(_send_together(url, content, size, count, meanwhile))


async def _send_together(
    url: str, content: bytes, size: int, count: int, meanwhile: Callable[[], None]
) -> list[Answer]:
    nearly = asyncio.Barrier(count + 1)
    looked = asyncio.Event()

    async def one() -> Answer:
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        head = f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode())
        answer = asyncio.create_task(reader.read())
        try:
            writer.write(content[:-1])
            missing = size - len(content)
            while missing and not answer.done():
                piece = min(_PIECE, missing)
                writer.write(b" " * piece)
                await writer.drain()
                missing -= piece
        except ConnectionError:
            await answer  # whoever closes the connection before the end has said why; `read` below finds out
        await nearly.wait()
        await looked.wait()
        if not answer.done():
            writer.write(content[-1:])
        said = await answer
        writer.close()
        return read(said)

    async with asyncio.timeout(150), asyncio.TaskGroup() as group:
        tasks = [group.create_task(one()) for _ in range(count)]
        await nearly.wait()
        await asyncio.to_thread(meanwhile)
        looked.set()
    return [task.result() for task in tasks]


def read(said: bytes) -> Answer:
    """Takes an answer apart whose connection was closed after it."""
    head, _, body = said.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split(" ")[1]), headers, json.loads(body))
