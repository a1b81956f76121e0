"""All settings of a replica: by flag, else by environment variable, else the default.

One table: the flags and `--help` are made from it (`command_line`).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from windlass_contract.control import SERVER_METRICS_PORT, SERVER_PORT
from windlass_contract.health import HEALTH
from windlass_contract.identifiers import Revision, ServerName
from windlass_server.api.cors import check_origin
from windlass_server.api.limits import Limits
from windlass_server.hosting.batch_sizes import FREEZE_BYTES, MOST_ROWS, SLICE_ROWS

ENV_PREFIX = "WINDLASS_"
UNMANAGED_SERVER = "default"

Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Bytes = Annotated[int, Field(ge=1, le=2**40)]
OperationName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_>.]{1,200}$")]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


def _replica_name(port: int) -> str:
    return socket.gethostname() if port == SERVER_PORT else f"{socket.gethostname()}-{port}"


class Settings(BaseSettings):
    """Descriptions give the unit; `--help` adds variable and default."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    # Where and who.
    models: Path = Field(Path("models"), description="folder of models, <model>/<version>/; it is only read")
    host: str = Field("127.0.0.1", description="address that clients reach the replica at; 0.0.0.0: any")
    port: Port = Field(SERVER_PORT, description="TCP port for clients; 0: any free one, the log says which")
    metrics_host: str | None = Field(None, description="address of /metrics (default: --host)")
    metrics_port: Port = Field(SERVER_METRICS_PORT, description="TCP port of /metrics; 0: any free one")
    refuse_until_ready: bool = Field(
        False,
        description="refuse clients from other machines and containers until the replica is ready for the first time; "
        "for a proxy in front that goes to the next replica when one refuses, and asks nobody for readiness",
    )
    server: ServerName | None = Field(
        None,
        description="name of the server that this replica belongs to, as ModelVersions name it; needed with "
        "--operator and --plan-file",
    )
    replica: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        # Two replicas of one name count as one, so that neighbours on one machine must not share the host's.
        default_factory=lambda data: _replica_name(data.get("port", SERVER_PORT)),
        description="name of this replica, the same after a restart and no other replica's (default: the host's "
        f"name, with -PORT behind it where --port isn't {SERVER_PORT})",
    )

    revision: Revision = Field(
        "",
        description="revision of the Pod template that this replica was made from; the plan may have an "
        "entry of its own for it",
    )

    # What it follows. None of it: like TensorFlow Serving, the highest complete version of each model serves.
    operator: str | None = Field(
        None,
        description="URL of the operator's control endpoint, e.g. http://127.0.0.1:8010; needs --control-token-file",
    )
    control_token_file: Path | None = Field(
        None, description="file with the control token of this server; read anew at each use"
    )
    operator_ca_file: Path | None = Field(
        None, description="PEM file with the certificates that sign the operator's (default: the system's)"
    )
    plan_file: Path | None = Field(
        None, description="the durable plan, e.g. a mounted ConfigMap's file: what to start on without an operator"
    )
    state_dir: Path | None = Field(
        None,
        description="folder for the copy of the last plan and the prediction log; each replica has its own "
        "(default: $XDG_STATE_HOME/windlass-server/SERVER/PORT, below ~/.local/state where that isn't set)",
    )

    # Bounds.
    queue_length: Count = Field(256, description="requests that run or wait per version; more are answered 429")
    explicit_queue_length: Count = Field(
        32, description="the same for requests that name a version or label, which have a bound of their own"
    )
    threads: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="requests that a version's worker runs at a time (default: the processors it may use)"
    )
    loading_cpus: Annotated[float, Field(gt=0, le=256)] | None = Field(
        None,
        description="processors' worth of time for a version that is prepared beside one that serves, e.g. 0.25: the "
        "less, the longer it takes and the less requests feel of it (default: a quarter of a CPU quota; without one, "
        "while requests come, an eighth of all processors, and at least 0.25)",
    )
    max_batch_size: Annotated[int, Field(ge=1, le=MOST_ROWS)] = Field(
        MOST_ROWS,
        description="one-row requests that are run together at most, where the version was seen to gain by it and "
        "their answers not to depend on it; a power of two, the next lower one is used; 1: none are",
    )
    slice_rows: Annotated[int, Field(ge=0, le=2048)] = Field(
        SLICE_ROWS,
        description="rows of a large request that are run at a time, where the version was seen to take no longer so, "
        "with the same answers; it is tried with the largest of its warm-up batch sizes; 0: all rows in one run",
    )
    freeze_bytes: Annotated[int, Field(ge=0, le=2**30)] = Field(
        FREEZE_BYTES,
        description="bytes of a SavedModel's variables, for each signature that is served, up to which they are made "
        "constants, where the version was seen to be quicker so, with the same answers; that takes five times as much "
        "memory; 0: they never are",
    )
    request_deadline: Seconds = Field(30.0, description="seconds from a request's admission to its answer, else 504")
    load_deadline: Seconds = Field(
        HEALTH.load_deadline, description="seconds in which a version has to be loaded; then it is tried again"
    )
    max_connections: Count = Field(
        2048,
        description="open connections; beyond that those make room that have waited longest for their client, and "
        "when there is none the new one is answered 503",
    )
    memory_reserve: Annotated[int, Field(ge=0, le=2**40)] = Field(
        256 * 1024 * 1024,
        description="bytes of the memory limit that stay free when a version loads; else it waits (WontFit)",
    )
    keep_alive: Seconds = Field(75.0, description="seconds after which an idle connection is closed")
    head_timeout: Seconds = Field(
        10.0, description="seconds from a request's first byte to the end of its headers, else 408"
    )
    body_timeout: Seconds = Field(
        20.0, description="seconds for a request's body, and one more for each --min-body-rate bytes of it, else 408"
    )
    min_body_rate: Count = Field(16 * 1024, description="bytes per second that a large body has to arrive with")
    send_timeout: Seconds = Field(
        60.0, description="seconds in which a client takes nothing of its answer; then it is cut off"
    )
    max_body_bytes: Bytes = Field(64 * 1024 * 1024, description="bytes of a request's body, decompressed; else 413")
    max_received_bytes: Bytes = Field(
        256 * 1024 * 1024,
        description="bytes of all larger bodies that are received, worked on and answered at once; beyond that the "
        "slowest sender is answered 429",
    )
    max_tensor_elements: Bytes = Field(64 * 1024 * 1024, description="elements of an input tensor; else 413")
    max_image_pixels: Bytes = Field(50_000_000, description="pixels of an image for POST /predict; else 413")
    image_deadline: Seconds = Field(10.0, description="seconds in which an image has to be decoded, else 400")
    drain_delay: Annotated[float, Field(ge=0, le=3600)] = Field(
        HEALTH.drain_delay,
        description="seconds after SIGTERM in which requests are still accepted, until everyone has stopped sending",
    )
    stop_grace_period: Seconds = Field(
        HEALTH.stop_grace_period, description="seconds from SIGTERM to the end, whatever is unfinished then"
    )

    # What models may do.
    allow_operation: Annotated[tuple[OperationName, ...], NoDecode] = Field(
        (),
        description="an operation that models may use although it reads files, opens connections or runs code "
        "(repeatable; as a variable: names separated by commas)",
    )
    require_confinement: bool = Field(
        False, description="run no model unless this kernel confines its process by every measure; /health names them"
    )

    # What it says.
    predictions: str | None = Field(
        None,
        description="where predictions are recorded: off, sqlite:////absolute/path or postgresql://user@host/database "
        "(default: SQLite in --state-dir). Put a URL with a password into --predictions-file instead",
    )
    predictions_file: Path | None = Field(None, description="file with what --predictions would say")
    predictions_sample: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="share of the predictions that is recorded, 0 to 1"
    )
    predictions_max_bytes: Annotated[int, Field(ge=1024 * 1024)] = Field(
        1024**3, description="bytes of recorded predictions that are kept; the oldest go first"
    )
    predictions_max_days: Annotated[float, Field(gt=0)] = Field(
        30.0, description="days that recorded predictions are kept"
    )
    strict_tfs: bool = Field(
        False,
        description="answer below /v1/ exactly as TensorFlow Serving, without the fields that KServe's clients read",
    )
    tls_certificate_file: Path | None = Field(
        None, description="PEM file with the certificate chain that clients see; needs --tls-key-file"
    )
    tls_key_file: Path | None = Field(None, description="PEM file with the certificate's key")
    api_key_file: Path | None = Field(
        None,
        description="file with the API keys of clients, one per line; read anew when it changes (default: everyone "
        "may ask)",
    )
    cors_origin: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="origin of web pages that may ask from a browser, e.g. https://app.example.com; repeatable, in the "
        "environment separated by commas; * for any (default: none)",
    )
    log_format: Literal["json", "console"] = Field("json", description="one JSON object per line, or text for people")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    @field_validator("allow_operation", mode="before")
    @classmethod
    def _split(cls, names: object) -> object:
        return [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else names

    @field_validator("operator")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("a URL is expected, as in http://operator:8010")
        return url

    @field_validator("cors_origin", mode="before")
    @classmethod
    def _are_origins(cls, origins: object) -> object:
        if isinstance(origins, str):
            origins = [origin.strip() for origin in origins.split(",") if origin.strip()]
        return tuple(check_origin(str(origin)) for origin in origins) if isinstance(origins, list | tuple) else origins

    @model_validator(mode="after")
    def _go_together(self) -> Settings:
        if self.managed and self.server is None:
            raise ValueError("--server (WINDLASS_SERVER) is missing: --operator and --plan-file need the server's name")
        if (self.operator is None) != (self.control_token_file is None):
            raise ValueError("--operator and --control-token-file are given together, or neither")
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("--tls-certificate-file and --tls-key-file are given together, or neither")
        if self.predictions is not None and self.predictions_file is not None:
            raise ValueError("--predictions or --predictions-file, not both")
        if self.max_received_bytes < self.max_body_bytes:
            raise ValueError("--max-received-bytes has to be at least --max-body-bytes")
        if self.drain_delay >= self.stop_grace_period:
            raise ValueError("--drain-delay has to be shorter than --stop-grace-period")
        return self

    @property
    def managed(self) -> bool:
        """Whether a plan source is set."""
        return self.operator is not None or self.plan_file is not None

    @property
    def limits(self) -> Limits:
        """How much of a request is read."""
        return Limits(
            max_body_bytes=self.max_body_bytes,
            max_json_bytes=self.max_body_bytes,
            max_tensor_elements=self.max_tensor_elements,
            max_image_pixels=self.max_image_pixels,
        )

    @property
    def server_name(self) -> str:
        """The server's name, in reports, plans and paths."""
        return self.server or UNMANAGED_SERVER

    @property
    def state_folder(self) -> Path:
        """Where the replica's own files are."""
        if self.state_dir is not None:
            return self.state_dir
        base = os.environ.get("XDG_STATE_HOME", "")
        root = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
        return root / "windlass-server" / self.server_name / str(self.port)
