"""What a person did that can't be done, said so that they can: shown without a traceback, with exit code 1."""

from __future__ import annotations


class UserError(Exception):
    """Names the file or field, what was found, and the remedy."""
