"""`windlass push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windlass_cli.errors import UserError
from windlass_cli.pushing import Push
from windlass_cli.terminal import Progress, err, out, size
from windlass_contract.artifact import ArtifactError, read_manifest, verify

from . import options


def push(
    folder: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="Folder of one version, as `windlass pack` made it.")
    ],
    server: Annotated[
        str,
        typer.Option(
            help="The server: its Deployment's name, which is the Helm release's.",
            callback=options.server_name,
            metavar="NAME",
        ),
    ],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Its namespace.", callback=options.server_name, metavar="NAME")
    ] = "default",
) -> None:
    """Copy a version into the volume that a server's replicas on a cluster read their models from.

    A Pod with that volume takes it, verifies it and puts it in its place; then the Pod is gone. Nothing is rolled out
    by that: apply a ModelVersion with `uri: volume://` next. What is there already isn't sent again.
    """
    with Progress(f"pushing {folder}") as progress:
        progress.step("verifying it here")
        try:
            manifest = read_manifest(folder).manifest
            artifact = verify(folder, model=manifest.model, version=manifest.version)
        except ArtifactError as error:
            raise UserError(f"{error.failure.reason}: {error}") from error
        total = sum(entry.size for entry in manifest.files)
        shown = f"{manifest.model}/{manifest.version}"
        one = Push(namespace, server, artifact)
        progress.step(f"starting a Pod with the volume of {server}")
        with one.pod() as pod:
            if one.is_there(pod):
                err.print(f"{shown} is there already", markup=False)
            else:
                progress.step(f"sending {size(total)}")
                sent = 0

                def advance(count: int) -> None:
                    nonlocal sent
                    sent += count
                    progress.amount(f"({min(sent / max(total, 1), 1):.0%})")

                one.send(pod, advance)
                err.print(f"{shown} is verified and in its place: {size(total)}", markup=False)
    out.print(artifact.digest)
