"""The fetcher's settings: each is a flag and an environment variable, `--max-bytes` and `WINDLASS_MAX_BYTES`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from windlass_contract.identifiers import Revision, ServerName
from windlass_server.settings import ENV_PREFIX, Bytes, Seconds

_HOST = re.compile(r"(\*|(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?)")


class FetcherSettings(BaseSettings):
    """Descriptions give the unit; `--help` adds variable and default."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    models: Path = Field(Path("models"), description="folder of models, the one that replicas read; it is written")
    server: ServerName = Field(description="name of the server whose plan it follows, as ModelVersions name it")
    revision: Revision = Field(
        "",
        description="revision of the Pod template, as its replica's: the plan may have an entry of its own for it",
    )
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
        None, description="the durable plan, e.g. a mounted ConfigMap's file: what to fetch without an operator"
    )

    allow_host: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="host that https:// artifacts may come from: models.example.com, models.example.com:8443, "
        "*.example.com for those below it, * for any; repeatable, in the environment separated by commas (default: "
        "none, https:// isn't fetched)",
    )
    allow_http: bool = Field(False, description="fetch http:// too, and from an --s3-endpoint without TLS")
    netrc_file: Path | None = Field(
        None,
        description="file with users and passwords for hosts of https:// artifacts, in netrc's form; read anew at "
        "each use",
    )
    s3_endpoint: str | None = Field(
        None,
        description="URL of the S3 service that s3:// artifacts come from, e.g. "
        "https://s3.eu-central-1.amazonaws.com (default: none, s3:// isn't fetched)",
    )
    s3_region: str = Field("us-east-1", description="the S3 service's region")
    s3_credentials_dir: Path | None = Field(
        None,
        description="folder with the files access-key-id, secret-access-key and, if need be, session-token, as a "
        "mounted Secret has them; read anew at each use (default: what the platform gives the process in AWS_… "
        "variables, else none)",
    )
    source_ca_file: Path | None = Field(
        None, description="PEM file with certificates that are trusted besides the system's, for https:// and s3://"
    )

    max_bytes: Bytes = Field(16 * 1024**3, description="bytes of one version; larger ones are not fetched")
    keep_seconds: Seconds = Field(
        900.0,
        description="seconds for which a version that was fetched stays after the last plan that named it; then its "
        "files are removed",
    )
    stall_timeout: Seconds = Field(30.0, description="seconds in which the next byte has to come")
    fetch_deadline: Seconds = Field(3600.0, description="seconds of one attempt; the next one goes on where it ended")
    log_format: Literal["json", "console"] = Field("json", description="one JSON object per line, or text for people")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    @field_validator("allow_host", mode="before")
    @classmethod
    def _are_hosts(cls, hosts: object) -> object:
        if isinstance(hosts, str):
            hosts = [host.strip() for host in hosts.split(",") if host.strip()]
        for host in hosts if isinstance(hosts, list | tuple) else ():
            if not _HOST.fullmatch(str(host)):
                raise ValueError(f"{host!r} is no host: write a name, name:port, *.name or *, without https://")
        return tuple(hosts) if isinstance(hosts, list | tuple) else hosts

    @field_validator("operator", "s3_endpoint")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[^/@?#\s]+/?", url):
            raise ValueError("a URL of a host is expected, without user and path, as in https://s3.example.com:9000")
        return url

    @model_validator(mode="after")
    def _go_together(self) -> FetcherSettings:
        if self.operator is None and self.plan_file is None:
            raise ValueError("--operator (WINDLASS_OPERATOR) is missing, and --plan-file too: one of them is followed")
        if (self.operator is None) != (self.control_token_file is None):
            raise ValueError("--operator and --control-token-file are given together, or neither")
        if not self.allow_host and self.s3_endpoint is None:
            raise ValueError(
                "nothing may be fetched: name hosts with --allow-host (WINDLASS_ALLOW_HOST), or an S3 service with "
                "--s3-endpoint (WINDLASS_S3_ENDPOINT)"
            )
        if self.s3_endpoint is not None and self.s3_endpoint.startswith("http:") and not self.allow_http:
            raise ValueError("--s3-endpoint is http://: credentials' signatures and models would go in the open; use "
                             "https://, or allow it with --allow-http (WINDLASS_ALLOW_HTTP)")  # fmt: skip
        return self
