"""All settings of the operator: by flag, else by environment variable, else the default.

One table: the flags and `--help` are made from it (`command_line`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from windlass_contract.control import CONTROL_PORT, OPERATOR_METRICS_PORT
from windlass_contract.identifiers import ServerName
from windlass_contract.model_version import Namespace

ENV_PREFIX = "WINDLASS_OPERATOR_"


class Settings(BaseSettings):
    """What both drivers have. Descriptions give the unit; `--help` adds variable and default."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="address that replicas reach the control endpoint at; 0.0.0.0: any")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        CONTROL_PORT, description="TCP port of the control endpoint; 0: any free one, the log says which"
    )
    control_tls_cert: Path | None = Field(
        None, description="PEM file with the control endpoint's certificate chain; needs --control-tls-key"
    )
    control_tls_key: Path | None = Field(None, description="PEM file with the certificate's key")
    metrics_host: str = Field("127.0.0.1", description="address of /metrics, /livez and /readyz")
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        OPERATOR_METRICS_PORT, description="TCP port of /metrics, /livez and /readyz; 0: any free one"
    )
    log_format: Literal["json", "console"] = Field("json", description="one JSON object per line, or text for people")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    @model_validator(mode="after")
    def _both_tls_files(self) -> Settings:
        if (self.control_tls_cert is None) != (self.control_tls_key is None):
            raise ValueError("--control-tls-cert and --control-tls-key are given together, or neither")
        return self


class DirectorySettings(Settings):
    """Those of the directory driver."""

    directory: Path = Field(description="folder of ModelVersion files; it is only read")
    state: Path | None = Field(
        None, description="folder for plans, statuses, events and control tokens (default: DIR/.windlass)"
    )
    tokens: Path | None = Field(
        None,
        description="folder of control tokens, one file per server, named like it; missing ones are made where it can "
        "be written (default: tokens in the state folder)",
    )
    server: Annotated[tuple[ServerName, ...], NoDecode] = Field(
        (),
        description="a server that may have no ModelVersion yet: its control token is made, and its replicas are told "
        "that there is no plan. The flag can be repeated; in the variable commas separate them",
    )
    poll_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        2.0, description="seconds after which the folder is read again although nothing was noticed"
    )

    @field_validator("server", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def state_folder(self) -> Path:
        """Where the driver's own files are."""
        return self.state if self.state is not None else self.directory / ".windlass"

    @property
    def tokens_folder(self) -> Path:
        """Where control tokens are."""
        return self.tokens if self.tokens is not None else self.state_folder / "tokens"


class KubernetesSettings(Settings):
    """Those of the Kubernetes driver."""

    namespaces: Annotated[tuple[Namespace, ...], NoDecode] = Field(
        (),
        description="a namespace to look for ModelVersions and servers in; none: all of the cluster. The flag can be "
        "repeated; in the variable commas separate them",
    )
    namespace: Namespace | None = Field(
        None, description="the operator's own namespace, for its Lease and certificate (default: its Pod's)"
    )
    pod: str | None = Field(None, description="who it says it is as the Lease's holder (default: the host's name)")
    control_name: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="another DNS name or address for the certificate that it makes, besides those of the Service "
        "windlass-operator. The flag can be repeated; in the variable commas separate them",
    )
    restarts: bool = Field(
        False,
        description="carry out rollouts in mode Restart, which change the Pod template of the server's Deployment; it "
        "needs the right to patch Deployments",
    )
    control_tls: Literal["own", "off"] = Field(
        "own",
        description="own: it makes a certificate, and hands its CA to the servers' namespaces; off: plain HTTP, where "
        "a mesh encrypts. --control-tls-cert overrides both",
    )

    @field_validator("namespaces", "control_name", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
