"""A stand-in for the worker processes: models of numpy in this process, hosted by the rules of `Hosting`.

What a worker does is tested with real ones elsewhere, and the protocols against a real server in
`test_real_server.py`; here it is the protocols alone, with each of their refusals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import httpx
import numpy as np
import pytest

from windlass_contract.health import Health
from windlass_contract.manifest import DataType, FileEntry, ImageInput, Manifest, ModelFormat, Signature, TensorSpec
from windlass_contract.report import VersionState
from windlass_server.api.app import create_app
from windlass_server.api.limits import Limits
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.hosting import Admission, VersionStatus
from windlass_server.predictions.prediction import Prediction

DIGEST = "sha256:" + "ab" * 32
Compute = Callable[[str, dict[str, Any]], dict[str, Any]]


def spec(datatype: str, *shape: int | None) -> TensorSpec:
    """`spec("FP32", -1, 4)`; `spec("FP32", None)` for any rank."""
    return TensorSpec(datatype=DataType(datatype), shape=None if shape == (None,) else list(shape))


@dataclass
class Version:
    number: int
    signatures: dict[str, Signature]
    compute: Compute
    state: VersionState = VersionState.PREPARED
    addressable: bool = True
    message: str = ""
    image: ImageInput | None = None
    classes: list[str] = field(default_factory=list)

    def manifest(self, model: str) -> Manifest:
        return Manifest(
            model=model,
            version=self.number,
            format=ModelFormat.SAVED_MODEL,
            files=[FileEntry(path="saved_model.pb", size=1, sha256="0" * 64)],
            signatures=self.signatures,
            image=self.image,
            classes=self.classes,
        )


class NumpyHosting:
    """`Hosting` over numpy functions."""

    def __init__(self) -> None:
        self.instead: dict[int, Admission] = {}
        """By version: which admission answered in its place."""
        self.hosted: dict[str, dict[int, Version]] = {}
        self.labelled: dict[str, dict[str, int]] = {}
        self.in_flight = 0
        self._released: list[Admission] = []
        self.failure: ServingError | None = None
        """What every run fails with."""
        self.refusal: ServingError | None = None
        """What every admission fails with."""
        self.asked: list[tuple[str, dict[str, Any], list[str] | None]] = []

    def add(self, model: str, version: Version, *labels: str) -> None:
        self.hosted.setdefault(model, {})[version.number] = version
        self.labelled.setdefault(model, {}).update(dict.fromkeys(labels, version.number))

    def models(self) -> list[str]:
        return sorted(self.hosted)

    def versions(self, model: str) -> list[VersionStatus]:
        if model not in self.hosted:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {model}")
        return [
            VersionStatus(each.number, each.state, each.message, each.addressable)
            for _, each in sorted(self.hosted[model].items(), reverse=True)
        ]

    def labels(self, model: str) -> Mapping[str, int]:
        return self.labelled.get(model, {})

    def admit(self, model: str, *, version: int | None = None, label: str | None = None) -> Admission:
        if self.refusal is not None:
            raise self.refusal
        living = {
            number: each
            for number, each in self.hosted.get(model, {}).items()
            if each.state is VersionState.PREPARED and each.addressable
        }
        explicit = version is not None or label is not None
        if label is not None:
            if label not in self.labelled.get(model, {}):
                raise ServingError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
            version = self.labelled[model][label]
        if not living or (version is not None and version not in living):
            what = f"Latest({model})" if version is None else f"Specific({model}, {version})"
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {what}")
        chosen = living[max(living) if version is None else version]
        self.in_flight += 1
        return Admission(
            model, chosen.number, DIGEST, 7, explicit, chosen.manifest(model), MappingProxyType(chosen.signatures)
        )

    async def infer(
        self,
        admission: Admission,
        signature: str,
        inputs: Mapping[str, Any],
        outputs: list[str] | None = None,
    ) -> dict[str, Any]:
        self.asked.append((signature, dict(inputs), outputs))
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        expected = admission.signatures[signature].inputs
        assert inputs.keys() == expected.keys(), "the caller has checked the names"
        for name, tensor in inputs.items():
            shape = expected[name].shape
            assert shape is None or (
                len(shape) == tensor.ndim
                and all(want in {-1, have} for want, have in zip(shape, tensor.shape, strict=True))
            ), "the caller has checked the shapes: a wrong rank can abort TensorFlow"
        results = self.hosted[admission.model][admission.version].compute(signature, dict(inputs))
        return {name: results[name] for name in outputs} if outputs else results

    def answered_by(self, admission: Admission) -> Admission:
        return self.instead.get(admission.version, admission)

    def release(self, admission: Admission) -> None:
        if not any(admission is each for each in self._released):
            self.in_flight -= 1
            self._released.append(admission)


class FixedHealth:
    """`HealthSource` that says what it is told."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.status = "ok"

    def live(self) -> tuple[bool, list[str]]:
        return not self.reasons, self.reasons

    def ready(self) -> tuple[bool, list[str]]:
        return not self.reasons, self.reasons

    def health(self) -> Health:
        return Health(
            status=self.status, database="disabled", model="ok", timestamp="2026-01-01T00:00:00Z", reasons=self.reasons
        )


class Log:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.predictions: list[Prediction] = []

    def record(self, prediction: Prediction) -> None:
        self.predictions.append(prediction)


class Api:
    """The application and everything around it; `get` and `post` run one request."""

    def __init__(self, **options: Any) -> None:
        self.hosting = NumpyHosting()
        self.health = FixedHealth()
        self.log = Log()
        options.setdefault("limits", Limits())
        self.app = create_app(self.hosting, instance="instance-1", predictions=self.log, health=self.health, **options)
        self._runner = asyncio.Runner()
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://test", headers={"accept-encoding": "identity"}
        )

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self._runner.run(self._client.request(method, path, **options))
        assert self.hosting.in_flight == 0, "every admission is given back"
        return answer

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        if body is not None:
            options["json" if not isinstance(body, str | bytes) else "content"] = body
        return self.request("POST", path, **options)

    def raw(self, method: str, path: str, headers: dict[str, str], chunks: list[bytes]) -> tuple[int, bytes]:
        """One request at the level of ASGI: the body in these chunks, the path as it is."""
        return self._runner.run(self._raw(method, path, headers, chunks))

    async def _raw(self, method: str, path: str, headers: dict[str, str], chunks: list[bytes]) -> tuple[int, bytes]:
        pending = list(chunks)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            body = pending.pop(0) if pending else b""
            return {"type": "http.request", "body": body, "more_body": bool(pending)}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": None,
            "server": ("test", 80),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        await self.app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


def affine(scale: float, offset: float) -> tuple[dict[str, Signature], Compute]:
    """y = scale * x + offset, as TensorFlow Serving's half_plus_two, with classify and regress beside it."""
    example = spec("BYTES", -1)
    signatures = {
        "serving_default": Signature(inputs={"x": spec("FP32", -1, 1)}, outputs={"y": spec("FP32", -1, 1)}),
        "regress_x_to_y": Signature(
            inputs={"inputs": example}, outputs={"outputs": spec("FP32", -1, 1)}, method="regress"
        ),
        "classify_x_to_y": Signature(
            inputs={"inputs": example}, outputs={"scores": spec("FP32", -1, 1)}, method="classify"
        ),
    }

    def compute(signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
        if signature == "serving_default":
            return {"y": inputs["x"] * np.float32(scale) + np.float32(offset)}
        # The examples of these tests hold one float: it is the last four bytes of the message.
        values = []
        for example in inputs["inputs"]:
            if b"\n\x01x\x12\x08\x12\x06\n\x04" not in example:
                raise ServingError(Code.INVALID_ARGUMENT, "Key: x.  Data types don't match. Expected type: float")
            values.append(np.frombuffer(example[-4:], dtype="<f4"))
        y = np.array(values, dtype=np.float32) * np.float32(scale) + np.float32(offset)
        return {"outputs" if signature == "regress_x_to_y" else "scores": y}

    return signatures, compute


def identity(signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
    return {"y" if name == "x" else name: value for name, value in inputs.items()}


def identity_version(datatype: str, *shape: int | None, output: str = "y") -> Version:
    """x comes back as y."""
    tensor = spec(datatype, *shape)
    return Version(
        1,
        {"serving_default": Signature(inputs={"x": tensor}, outputs={output: tensor})},
        lambda _, inputs: {output: inputs["x"]},
    )


def pair_version() -> Version:
    """Two inputs: `sum` and `difference` by row, and `first`, which has no rows."""
    signature = Signature(
        inputs={"a": spec("FP32", -1), "b": spec("INT32", -1)},
        outputs={"sum": spec("FP32", -1), "difference": spec("FP32", -1)},
    )
    return Version(
        1,
        {"serving_default": signature},
        lambda _, inputs: {
            "sum": (inputs["a"] + inputs["b"]).astype(np.float32),
            "difference": (inputs["a"] - inputs["b"]).astype(np.float32),
        },
    )


def digits_version(**changes: Any) -> Version:
    """An image of 8 x 8 in; the mean brightness of its rows 0 to 9 (the last two are 0) as scores of ten classes."""
    shape = changes.pop("shape", (-1, 8, 8, 1))
    datatype = changes.pop("datatype", "FP32")
    settings: dict[str, Any] = {"input": "image", "width": 8, "height": 8, "channels": 1, "scale": 1 / 255}
    settings |= changes
    side, channels = settings["height"], settings["channels"]

    def compute(_: str, inputs: dict[str, Any]) -> dict[str, Any]:
        rows = inputs["image"].astype(np.float32).reshape(-1, side, side * channels).mean(axis=2)
        return {"scores": np.pad(rows, ((0, 0), (0, 10 - side))).astype(np.float32)}

    return Version(
        3,
        {
            "serving_default": Signature(
                inputs={"image": spec(datatype, *shape)}, outputs={"scores": spec("FP32", -1, 10)}
            )
        },
        compute,
        image=ImageInput(**settings),
        classes=["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    )


@pytest.fixture
def make_api() -> Iterator[Callable[..., Api]]:
    """Makes an `Api` with options of `create_app`, over models or none."""
    made: list[Api] = []

    def make(*models: tuple[str, Version], **options: Any) -> Api:
        api = Api(**options)
        made.append(api)
        for name, version in models:
            api.hosting.add(name, version)
        return api

    yield make
    for api in made:
        api.close()


@pytest.fixture
def kit() -> Any:
    """The makers of models above, for the tests."""
    return Kit


class Kit:
    Version = Version
    affine = staticmethod(affine)
    identity = staticmethod(identity_version)
    pair = staticmethod(pair_version)
    digits = staticmethod(digits_version)
    spec = staticmethod(spec)
    digest = DIGEST


@pytest.fixture
def half(make_api: Callable[..., Api]) -> Api:
    """half_plus_two as version 1 (label `canary`), half_plus_three as version 2 (label `stable`)."""
    api = make_api()
    api.hosting.add("half", Version(1, *affine(0.5, 2.0)), "canary")
    api.hosting.add("half", Version(2, *affine(0.5, 3.0)), "stable")
    return api
