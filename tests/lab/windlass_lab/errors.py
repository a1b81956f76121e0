"""What the lab says when it can't go on."""

from __future__ import annotations


class LabError(Exception):
    """The lab can't go on; the message says what was found and what to do about it."""


class CommandError(LabError):
    """A command ended with another code than 0. `output` is what it wrote, both streams."""

    def __init__(self, arguments: list[str], code: int, output: str) -> None:
        self.arguments, self.code, self.output = arguments, code, output
        tail = "\n".join(output.strip().splitlines()[-25:])
        super().__init__(f"`{' '.join(arguments)[:400]}` ended with {code}:\n{tail}")
