"""Writes the plain manifests below k8s/ from the charts, for those who don't use Helm.

`python k8s/generate.py` writes them, `--check` says which are behind (exit code 1). Needs `helm`; HELM names another.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
CHARTS = FOLDER.parent / "charts"
KUBERNETES = "1.35.0"
"""Rendering needs a version; nothing in the charts depends on which."""

HEADER = "# Generated from charts/{chart} by `make k8s`; edits are lost. Change it by an overlay: k8s/README.md.\n"
OF_HELM = ("helm.sh/", "meta.helm.sh/", "app.kubernetes.io/managed-by")
"""Labels and annotations that mean something to Helm only."""

Document = dict[str, Any]
SERVER = ("windlass-server", "digits", "digits")
OPERATOR = ("windlass-operator", "windlass", "windlass-system")
"""Chart, release and namespace."""
SERVER_VALUES = ("models.existingClaim=models",)


def render(chart: str, release: str, namespace: str, *values: str) -> list[Document]:
    """The objects of a chart without what is Helm's; its tests are left out. Raises `CalledProcessError`."""
    command = [os.environ.get("HELM", "helm"), "template", release, str(CHARTS / chart), f"--namespace={namespace}"]
    command += [f"--kube-version={KUBERNETES}", "--skip-tests", *(f"--set={value}" for value in values)]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - helm, on our charts
    return [_plain(document) for document in yaml.safe_load_all(rendered.stdout) if document]


def _plain(document: Document) -> Document:
    places = [document["metadata"]]
    if template := document.get("spec", {}).get("template"):
        places.append(template["metadata"])
    for metadata in places:
        for part in ("labels", "annotations"):
            kept = {name: text for name, text in metadata.get(part, {}).items() if not name.startswith(OF_HELM)}
            metadata.pop(part, None)
            if kept:
                metadata[part] = kept
    return document


def dump(documents: list[Document], chart: str) -> str:
    """A manifest's text."""
    return HEADER.format(chart=chart) + yaml.safe_dump_all(documents, sort_keys=False, width=120, allow_unicode=True)


def namespace(name: str) -> Document:
    """A namespace that refuses Pods which may more than ours need."""
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": level}}


def generated() -> dict[Path, str]:
    """Each generated file with what has to be in it."""
    operator, server = render(*OPERATOR), render(*SERVER, *SERVER_VALUES)
    crds = [document for document in operator if document["kind"] == "CustomResourceDefinition"]
    rest = [document for document in operator if document["kind"] != "CustomResourceDefinition"]
    scaled = render(*SERVER, *SERVER_VALUES, "autoscaling.enabled=true")
    scaler = [document for document in scaled if document["kind"] == "HorizontalPodAutoscaler"]
    return {
        FOLDER / "operator" / "crd.yaml": dump(crds, OPERATOR[0]),
        FOLDER / "operator" / "operator.yaml": dump([namespace(OPERATOR[2]), *rest], OPERATOR[0]),
        FOLDER / "overlays" / "autoscaling" / "horizontalpodautoscaler.yaml": dump(scaler, SERVER[0]),
        FOLDER / "server" / "server.yaml": dump([namespace(SERVER[2]), *server], SERVER[0]),
    }


def main(arguments: list[str]) -> int:
    """Writes or checks; gives the exit code."""
    behind = []
    for file, text in generated().items():
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        behind.append(file)
        if "--check" in arguments:
            print(f"{file.relative_to(FOLDER.parent)} isn't what the charts render; run `make k8s`", file=sys.stderr)
        else:
            file.write_text(text, encoding="utf-8")
    return 1 if behind and "--check" in arguments else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
