"""The charts, rendered by the lab's Helm, for tests."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import Any

import yaml

from windlass_testing.pages import ROOT

Document = dict[str, Any]
CHARTS = ROOT / "charts"
KUBERNETES = "1.35.0"
RELEASES = {"windlass-operator": ("windlass", "windlass-system"), "windlass-server": ("digits", "vision")}
"""Chart to the release's name and namespace."""
MODELS = "models.existingClaim=models"


@dataclass(frozen=True)
class Rendered:
    """What `helm template` gave."""

    documents: list[Document]

    def one(self, kind: str, name: str | None = None) -> Document:
        """The only object of a kind, or the one of that name. Raises `LookupError`."""
        found = self.all(kind) if name is None else [d for d in self.all(kind) if d["metadata"]["name"] == name]
        if len(found) != 1:
            raise LookupError(f"{len(found)} objects of kind {kind} in {self.kinds()}")
        return found[0]

    def all(self, kind: str) -> list[Document]:
        """Those of a kind, without Helm's tests."""
        return [d for d in self.documents if d["kind"] == kind and not self.is_test(d)]

    def tests(self) -> list[Document]:
        """What `helm test` runs."""
        return [d for d in self.documents if self.is_test(d)]

    def kinds(self) -> set[str]:
        """All kinds but those of Helm's tests."""
        return {d["kind"] for d in self.documents if not self.is_test(d)}

    def pod(self) -> Document:
        """The Deployment's Pod."""
        spec: Document = self.one("Deployment")["spec"]["template"]["spec"]
        return spec

    def container(self) -> Document:
        """Its container."""
        (container,) = self.pod()["containers"]
        found: Document = container
        return found

    def variables(self) -> Document:
        """The container's variables: name to value, or to where it comes from."""
        listed = self.container()["env"]
        variables = {each["name"]: each.get("value", each.get("valueFrom")) for each in listed}
        assert len(variables) == len(listed), "a variable is given twice"
        return variables

    @staticmethod
    def is_test(document: Document) -> bool:
        """Whether it is only there for `helm test`."""
        return "test" in document["metadata"].get("annotations", {}).get("helm.sh/hook", "")


@dataclass(frozen=True)
class ChartRenderer:
    """`helm template` and `helm lint` of one major version of Helm."""

    helm: str
    environment: dict[str, str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`helm …`; the exit code is the caller's to judge."""
        environment = os.environ | self.environment
        return subprocess.run(
            [self.helm, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def template(self, chart: str, *options: str) -> subprocess.CompletedProcess[str]:
        """`helm template` with the options, such as `--set=…`."""
        release, namespace = RELEASES[chart]
        where = (f"--namespace={namespace}", f"--kube-version={KUBERNETES}")
        return self.run("template", release, str(CHARTS / chart), *where, *options)

    def __call__(self, chart: str, *values: str, file: str = "", options: tuple[str, ...] = ()) -> Rendered:
        """The objects of a chart with these `--set` values and a file of `ci/`."""
        if chart == "windlass-server" and not file:
            values = (MODELS, *values)
        given = [f"--values={CHARTS / chart / 'ci' / file}"] if file else []
        done = self.template(chart, *given, *(f"--set={value}" for value in values), *options)
        assert done.returncode == 0, done.stderr
        return Rendered([document for document in yaml.safe_load_all(done.stdout) if document])

    def refusal(self, chart: str, *values: str, release: str = "") -> str:
        """Why a chart can't be rendered with these values."""
        options = [f"--set={value}" for value in values]
        if release:
            done = self.run("template", release, str(CHARTS / chart), f"--kube-version={KUBERNETES}", *options)
        else:
            done = self.template(chart, *options)
        assert done.returncode != 0, f"{chart} was rendered with {values}"
        return done.stderr
