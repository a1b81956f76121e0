"""The flags of `windlass-server` and `windlass-fetcher`, made from their settings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from windlass_contract.wording import remedy
from windlass_server.settings import ENV_PREFIX, Settings

_PROGRAM = "windlass-server"

S = TypeVar("S", bound=BaseSettings)


class _Help(argparse.HelpFormatter):
    """Wide enough for names, narrow enough to be read."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


def parse(arguments: Sequence[str]) -> Settings:
    """The replica's settings. Leaves with a message and code 2 when they are wrong, 0 for `--help`."""
    return parse_settings(
        Settings,
        arguments,
        _PROGRAM,
        "Runs one replica: serves the models in a folder, as the operator's plan says; without --operator "
        "and --plan-file the highest complete version of each model, as TensorFlow Serving does.",
    )


def parse_settings(kind: type[S], arguments: Sequence[str], program: str, description: str) -> S:
    """A program's settings by flags and environment. Leaves with a message and code 2 when they are wrong, 0 for
    `--help`."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog="Each setting has an environment variable, named in brackets; a flag goes before it.",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{program} {version('windlass-server')}")
    for name, field in kind.model_fields.items():
        _add_flag(parser, name, field)
    given = vars(parser.parse_args(arguments))
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        # A default that depends on a wrong setting is no mistake of its own.
        wrong = [each for each in error.errors(include_url=False) if each["type"] != "default_factory_not_called"]
        parser.exit(2, "".join(f"{program}: {_explain(detail)}\n" for detail in wrong))


def _add_flag(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    default = field.default
    text = f"{field.description} [{ENV_PREFIX}{name.upper()}"
    text += "]" if default in (None, (), PydanticUndefined) else f", default {_shown(default)}]"
    options: dict[str, Any] = {"help": text.replace("%", "%%"), "default": None}
    if get_origin(field.annotation) is Literal:
        options["choices"] = list(get_args(field.annotation))
    elif field.annotation is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif get_origin(field.annotation) is tuple:
        options |= {"action": "append", "metavar": _metavar(name, field)}
    else:
        options["metavar"] = _metavar(name, field)
    parser.add_argument(f"--{name.replace('_', '-')}", **options)


def _shown(default: Any) -> str:
    if isinstance(default, float):
        return f"{default:g}"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _metavar(name: str, field: FieldInfo) -> str:
    for ending, shown in (
        ("port", "PORT"),
        ("host", "ADDRESS"),
        ("operator", "URL"),
        ("endpoint", "URL"),
        ("allow_operation", "NAME"),
        ("bytes", "BYTES"),
        ("predictions", "URL"),
    ):
        if name.endswith(ending):
            return shown
    if field.annotation in (Path, Path | None):
        return "PATH"
    if field.annotation is float:
        return "SECONDS" if (field.description or "").startswith("seconds") else "NUMBER"
    return "N" if field.annotation is int else name.upper()


def _explain(detail: Any) -> str:
    """One wrong setting, by the names that people know it by."""
    if not detail["loc"]:
        return str(detail["msg"].removeprefix("Value error, "))
    name = str(detail["loc"][0])
    return f"--{name.replace('_', '-')} ({ENV_PREFIX}{name.upper()}) is {detail['input']!r}: {remedy(detail)}"
