"""`windlass-operator`'s flags, made from the settings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from windlass_contract.wording import remedy

from .settings import ENV_PREFIX, DirectorySettings, KubernetesSettings

_FLAGS = {"namespaces": "namespace", "namespace": "own-namespace"}
"""Flags that aren't called as their setting is."""


class _Help(argparse.HelpFormatter):
    """Wide enough for names, narrow enough to be read."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


def parse(arguments: Sequence[str]) -> DirectorySettings | KubernetesSettings:
    """The settings by flags and environment. Leaves with a message and code 2 when they are wrong, 0 for `--help`."""
    parser = _parser()
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    command = given.pop("command")
    try:
        return KubernetesSettings(**given) if command == "kubernetes" else DirectorySettings(**given)
    except ValidationError as error:
        parser.exit(2, f"windlass-operator: {'; '.join(_explain(detail) for detail in error.errors())}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="windlass-operator",
        description="Decides which model version each replica serves, and proves each step before traffic sees it.",
        epilog="Each command lists its settings: windlass-operator directory --help",
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"windlass-operator {version('windlass-operator')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    directory = commands.add_parser(
        "directory",
        help="drive rollouts from a folder of ModelVersion files (Compose, Swarm, one machine)",
        description="Drives rollouts from the ModelVersion files (*.yaml) in DIR: statuses, events, plans and control "
        "tokens go to the state folder. Replicas subscribe to the control endpoint. A second one on the same state "
        "stands by and takes over when the first ends.",
        formatter_class=_Help,
    )
    directory.add_argument("directory", metavar="DIR", help=DirectorySettings.model_fields["directory"].description)
    for name, field in DirectorySettings.model_fields.items():
        if name != "directory":
            _add_flag(directory, name, field)
    kubernetes = commands.add_parser(
        "kubernetes",
        help="drive rollouts from ModelVersions on a cluster",
        description="Drives rollouts from the ModelVersions of a cluster, or of some of its namespaces: plan and "
        "record of each server go to the ConfigMap <server>-windlass-plan, statuses and Events to the ModelVersions. "
        "Replicas subscribe to the control endpoint with their Pods' tokens. Of several operators the holder of the "
        "Lease windlass-operator acts. It logs in by its Pod's service account, else by the kubeconfig.",
        formatter_class=_Help,
    )
    for name, field in KubernetesSettings.model_fields.items():
        _add_flag(kubernetes, name, field)
    return parser


def _add_flag(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    text = f"{field.description} [{ENV_PREFIX}{name.upper()}"
    default: Any = field.default
    text += "]" if default in (None, ()) else f", default {default}]"
    options: dict[str, Any] = {"help": text.replace("%", "%%"), "default": None}
    if get_origin(field.annotation) is Literal:
        options["choices"] = list(get_args(field.annotation))
    elif default == ():
        options["action"] = "append"
        options["metavar"] = "NAME"
    else:
        options["metavar"] = _metavar(name)
    parser.add_argument(_flag(name), dest=name, **options)


def _flag(name: str) -> str:
    return f"--{_FLAGS.get(name, name).replace('_', '-')}"


def _metavar(name: str) -> str:
    if name.endswith("port"):
        return "PORT"
    if name.endswith("host"):
        return "ADDRESS"
    if name in ("namespace", "pod"):
        return "NAME"
    return "SECONDS" if name.endswith("seconds") else "PATH"


def _explain(detail: Any) -> str:
    """One wrong setting, by the names that people know it by."""
    if not detail["loc"]:
        return str(detail["msg"].removeprefix("Value error, "))
    name = str(detail["loc"][0])
    shown = name.upper() if name == "directory" else f"{_flag(name)} ({ENV_PREFIX}{name.upper()})"
    return f"{shown} is {detail['input']!r}: {remedy(detail)}"
