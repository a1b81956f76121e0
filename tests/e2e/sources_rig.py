"""A web server and a real S3 server as Pods, with TLS by an authority of their own."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store
from windlass_lab.testing.kubernetes import Namespace
from windlass_lab.testing.waiting import until

from windlass_testing.web_folder import certificates

ACCESS_KEY, SECRET_KEY = "windlass-reader", "a-secret-that-is-in-no-log"
BUCKET = "models"
WEB_PORT, S3_PORT = 8443, 7070

WEB = """
import functools, http.server, ssl
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/srv")
server = http.server.ThreadingHTTPServer(("", 8443), handler)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain("/tls/tls.crt", "/tls/tls.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


class Sources:
    """`web` and `s3`, Services in the test's namespace; their authority is the ConfigMap `source-ca`."""

    def __init__(self, space: Namespace, folder: Path, web_image: str, s3_image: str) -> None:
        self.space = space
        hosts = [f"{name}.{space.name}.svc" for name in ("web", "s3")]
        self.tls = certificates(folder, *hosts, "localhost")
        self.web_host = f"{hosts[0]}:{WEB_PORT}"
        self.s3_endpoint = f"https://{hosts[1]}:{S3_PORT}"
        self._images = {"web": web_image, "s3": s3_image}

    def start(self, published: dict[str, Path]) -> None:
        """`published`: folder of the web server's URL to the version's folder."""
        files, items = {}, []
        for address, folder in published.items():
            for path in sorted(each for each in folder.rglob("*") if each.is_file()):
                key = f"{address}/{path.relative_to(folder)}".replace("/", ".")
                files[key] = base64.b64encode(path.read_bytes()).decode()
                items.append({"key": key, "path": f"{address}/{path.relative_to(folder)}"})
        self.space.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"}, "binaryData": files},
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "source-ca"},
                "data": {"ca.crt": self.tls.authority.read_text()},
            },
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "sources-tls"},
                "stringData": {"tls.crt": self.tls.chain.read_text(), "tls.key": self.tls.key.read_text()},
            },
            self._pod("web", ["python", "-c", WEB], None, WEB_PORT, {"configMap": {"name": "web", "items": items}}),
            self._pod(
                "s3",
                None,
                ["--cert=/tls/tls.crt", "--key=/tls/tls.key", f"--port=:{S3_PORT}", "posix", "/srv"],
                S3_PORT,
                {"emptyDir": {}},
            ),
            *(
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": name},
                    "spec": {"selector": {"app": name}, "ports": [{"port": port}]},
                }
                for name, port in (("web", WEB_PORT), ("s3", S3_PORT))
            ),
        )
        until("the sources are ready", lambda: len(self.space.ready_pods("app in (web, s3)")) == 2, timeout=120)

    def upload(self, folder: Path, address: str) -> None:
        """Puts a version's files into the bucket, below `address`."""
        with self.space.port_forward("service/s3", S3_PORT) as port:
            options: dict[str, Any] = {
                "endpoint": f"https://localhost:{port}",
                "region": "us-east-1",
                "access_key_id": ACCESS_KEY,
                "secret_access_key": SECRET_KEY,
                "client_options": {"root_certificate": self.tls.authority.read_bytes()},
            }
            store = S3Store(BUCKET, **options)
            for path in sorted(each for each in folder.rglob("*") if each.is_file()):
                obstore.put(store, f"{address}/{path.relative_to(folder)}", path.read_bytes())

    def _pod(
        self, name: str, command: list[str] | None, arguments: list[str] | None, port: int, content: dict[str, Any]
    ) -> dict[str, Any]:
        container = {
            "name": name,
            "image": self._images[name],
            **({"command": command} if command else {}),
            **({"args": arguments} if arguments else {}),
            "env": [
                {"name": "ROOT_ACCESS_KEY", "value": ACCESS_KEY},
                {"name": "ROOT_SECRET_KEY", "value": SECRET_KEY},
            ],
            "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
            "securityContext": _SECURITY,
            "volumeMounts": [
                {"name": "tls", "mountPath": "/tls", "readOnly": True},
                {"name": "content", "mountPath": "/srv"},
            ],
        }
        spec: dict[str, Any] = {
            "securityContext": _POD_SECURITY,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            "volumes": [{"name": "tls", "secret": {"secretName": "sources-tls"}}, {"name": "content"} | content],
        }
        if name == "s3":
            # A bucket is a folder there.
            spec["initContainers"] = [
                {
                    "name": "bucket",
                    "image": self._images["web"],
                    "command": ["python", "-c", f"import os; os.mkdir('/srv/{BUCKET}')"],
                    "securityContext": _SECURITY,
                    "volumeMounts": [{"name": "content", "mountPath": "/srv"}],
                }
            ]
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def fetcher_log(space: Namespace, pod: str) -> list[dict[str, Any]]:
    """What a Pod's fetcher logged."""
    lines = space.kubectl("logs", pod, "--container=fetcher").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
