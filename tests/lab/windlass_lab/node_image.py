"""kind's node image, built from the files that kind publishes in its own module and from commands built as Go modules.

Kind's build needs images that are pulled; this makes the same of what there is. The images that the cluster itself
runs are put into the node's containerd, so that a node needs nothing from outside.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from windlass_lab.commands import run, succeeds
from windlass_lab.engine import image_labels
from windlass_lab.errors import LabError
from windlass_lab.home import Home, deadline
from windlass_lab.images import FINGERPRINT, IMAGES, SYSTEMD_ROOT, Builder
from windlass_lab.steps import Step, fingerprint
from windlass_lab.tools import Go, families, note
from windlass_lab.versions import Versions

BASE = "windlass-lab/node-base"
WORKSHOP = "windlass-lab-node-build"
"""The container in which the cluster's images are put into the node's containerd."""


class NodeImage:
    """What it takes to build it."""

    def __init__(self, home: Home, versions: Versions, go: Go) -> None:
        self.home, self.versions, self.go = home, versions, go
        self.builder = Builder(home)
        self.environment = home.environment("built")

    def step(self) -> Step:
        """Built from these Dockerfiles and versions, on this root."""
        return Step(self.versions.node, lambda: self.builder.there(self.versions.node, self._sums()), self._act)

    def _sums(self) -> str:
        built = (note(family, self.home) for family in families(self.versions))
        notes = "".join(sorted(file.read_text(encoding="utf-8") for file in built if file.is_file()))
        root = self.builder_label(SYSTEMD_ROOT)
        return fingerprint("1", notes, root, IMAGES)

    def builder_label(self, image: str) -> str:
        """The fingerprint of an image of ours; empty when it isn't there."""
        return image_labels([image], self.environment).get(image, {}).get(FINGERPRINT, "")

    def _act(self) -> None:
        kind = self.go.module_folder("kubernetes", "sigs.k8s.io/kind")
        sums = self._sums()
        shutil.copyfile("/bin/busybox", self.home.libexec / "busybox")
        storage = (kind / "pkg/build/nodeimage/const_storage.go").read_text(encoding="utf-8")
        network = (kind / "pkg/build/nodeimage/const_cni.go").read_text(encoding="utf-8")
        images = self._cluster_images(kind, storage, network, sums)
        manifests = {
            "default-storage.yaml": go_text(storage, "defaultStorageManifest"),
            "default-cni.yaml": go_text(network, "defaultCNIManifest"),
        }
        self._base(kind, manifests, sums)
        self._with_images(images, sums)
        # what these replaced has no name any more; the engine is the lab's own
        ours = f"label={FINGERPRINT}"
        run("docker", "image", "prune", "--force", "--filter", ours, environment=self.environment, timeout=300)

    def _cluster_images(self, kind: Path, storage: str, network: str, sums: str) -> list[str]:
        """Builds the images that kubeadm and kind's manifests name. Returns their names."""
        kubernetes = self.versions.kubernetes
        made: list[str] = []

        def make(
            image: str,
            target: str,
            command: str = "busybox",
            dockerfile: Path = IMAGES / "cluster.Dockerfile",
            context: Path = self.home.libexec,
        ) -> None:
            self.builder.build(
                image,
                dockerfile,
                context,
                sums=sums,
                target=target,
                log="cluster-images",
                command=command,
                root=SYSTEMD_ROOT,
            )
            made.append(image)

        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
            make(f"registry.k8s.io/{name}:{kubernetes}", "command", name)
        make(f"registry.k8s.io/kube-proxy:{kubernetes}", "proxy")
        listed = run(
            self.home.libexec / "kubeadm", "config", "images", "list", "--kubernetes-version", kubernetes, timeout=60
        ).split()
        make(next(image for image in listed if "/etcd:" in image), "command", "etcd")
        make(next(image for image in listed if "/coredns:" in image), "coredns", "coredns")
        pause = re.search(
            r'sandbox_image = "(.*)"',
            (kind / "images/base/files/etc/containerd/config.toml").read_text(encoding="utf-8"),
        )
        if not pause:
            raise LabError(
                "kind's containerd configuration names no sandbox_image any more; see images/base/files in its module"
            )
        make(pause[1], "pause")
        make(go_text(storage, "storageProvisionerImage"), "command", "local-path-provisioner")
        make(go_text(storage, "storageHelperImage"), "busybox")
        folder = IMAGES / "pod-network"
        make(go_text(network, "kindnetdImage"), "", dockerfile=folder / "Dockerfile", context=folder)
        return made

    def _base(self, kind: Path, manifests: dict[str, str], sums: str) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            context = Path(temporary)
            shutil.copytree(kind / "images/base/files", context / "files", copy_function=shutil.copyfile)
            for name in ("bin", "manifests"):
                (context / name).mkdir()
            for name, content in manifests.items():
                (context / "manifests" / name).write_text(content, encoding="utf-8")
            (context / "version").write_text(self.versions.kubernetes, encoding="utf-8")
            of_libexec = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "kubelet", "kubeadm")
            for file in [
                *(self.home.libexec / name for name in of_libexec),
                self.home.bin / "kubectl",
                *(self.home.path / "cni").iterdir(),
            ]:
                shutil.copy2(file, context / "bin" / file.name)
            self.builder.build(
                BASE, IMAGES / "node.Dockerfile", context, sums=sums, log="node-image", root=SYSTEMD_ROOT
            )

    def _with_images(self, images: list[str], sums: str) -> None:
        """Starts the node's containerd in a container, imports the images, keeps the container as the node image."""

        def docker(*arguments: str, timeout: float = 300) -> str:
            return run("docker", *arguments, environment=self.environment, timeout=timeout)

        succeeds("docker", "rm", "--force", WORKSHOP, environment=self.environment)  # of an interrupted build
        docker("run", "--detach", "--privileged", "--name", WORKSHOP, "--entrypoint", "sleep", BASE, "infinity")
        docker("exec", "--detach", WORKSHOP, "containerd")
        until = deadline(60)
        while not succeeds("docker", "exec", WORKSHOP, "ctr", "version", environment=self.environment):
            if time.monotonic() > until:
                raise LabError(f"containerd in the container {WORKSHOP} doesn't answer within 60 s")
            time.sleep(0.3)
        for image in images:
            self._import(image)
        docker(
            "exec",
            WORKSHOP,
            "sh",
            "-c",
            "pkill containerd; while pgrep -x containerd >/dev/null; do sleep 0.1; done; rm -rf /run/containerd",
        )
        docker("stop", "--time", "1", WORKSHOP)
        entrypoint = 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]'
        docker(
            "commit", "--change", entrypoint, "--change", f"LABEL {FINGERPRINT}={sums}", WORKSHOP, self.versions.node
        )
        docker("rm", "--force", WORKSHOP)

    def _import(self, image: str) -> None:
        environment = os.environ | self.environment
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE, env=environment) as saved:
            loaded = subprocess.run(
                [
                    "docker",
                    "exec",
                    "--interactive",
                    WORKSHOP,
                    "ctr",
                    "--namespace",
                    "k8s.io",
                    "images",
                    "import",
                    "--no-unpack",
                    "-",
                ],
                stdin=saved.stdout,
                capture_output=True,
                env=environment,
                check=False,
            )
        if loaded.returncode != 0 or saved.returncode != 0:
            said = (loaded.stdout + loaded.stderr).decode(errors="replace")
            raise LabError(f"importing {image} into the node image failed: {said}")


def go_text(source: str, name: str) -> str:
    """The value of a string constant of a Go source, put together from raw strings and the constants it names.

    Raises `LabError` when the constant isn't there: a newer kind has its files in another shape.
    """
    found = re.search(
        rf'^const {name} = ((?:"[^"]*"|`[^`]*`|\w+)(?: \+ (?:"[^"]*"|`[^`]*`|\w+))*)', source, re.MULTILINE
    )
    if not found:
        raise LabError(f"kind's sources hold no constant {name} any more; see pkg/build/nodeimage in its module")
    parts = re.findall(r'"([^"]*)"|`([^`]*)`|(\w+)', found[1])
    return "".join(quoted or raw or (go_text(source, constant) if constant else "") for quoted, raw, constant in parts)
