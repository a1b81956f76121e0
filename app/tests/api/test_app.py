"""The application as a whole: health, ids, documentation, and that no error is anything but `{"error": …}`."""

import dataclasses
import gc
import re

import httpx
import pytest
from openapi_spec_validator import validate

from windlass_contract.manifest import Signature


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
def test_health_answers_get_and_head(half, path):
    get, head = half.get(path), half.request("HEAD", path)

    assert (get.status_code, get.json()["status"]) == (200, "ok")
    assert half.raw("HEAD", path, {}, []) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert half.post(path).status_code == 405


def test_health_says_what_is_wrong(half):
    half.health.reasons = ["version 2 of model half is Loading"]

    for path in ("/livez", "/readyz"):
        answer = half.get(path)
        assert (answer.status_code, answer.json()) == (
            503,
            {"status": "unavailable", "reasons": ["version 2 of model half is Loading"]},
        )


@pytest.mark.parametrize(
    ("status", "code"), [("ok", 200), ("degraded", 200), ("starting", 503), ("unavailable", 503), ("draining", 503)]
)
def test_health_has_its_body_and_its_code(half, status, code):
    half.health.status = status

    answer = half.get("/health")

    assert answer.status_code == code
    assert (
        answer.json().items()
        >= {
            "status": status,
            "database": "disabled",
            "model": "ok",
            "timestamp": "2026-01-01T00:00:00Z",
        }.items()
    )


@pytest.mark.parametrize(
    "path", ["/nothing", "/livez/", "/health/", "/docs/other.js", "/predict/a/b", "/v3", "/v10/models"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_what_is_not_there_is_404_json_without_redirects(half, path, method):
    answer = half.request(method, path)

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    if method != "HEAD":
        assert list(answer.json()) == ["error"]


def test_every_answer_carries_one_request_id(half):
    for path in ("/", "/livez", "/v1/models/half", "/v2", "/docs", "/openapi.json", "/nothing"):
        answer = half.get(path, headers={"X-Request-Id": "abc-123"})
        assert answer.headers.get_list("x-request-id") == ["abc-123"]


@pytest.mark.parametrize("given", ["", "x" * 129, "with space", "tab\tbed"])
def test_an_unfit_request_id_is_replaced(half, given):
    assert re.fullmatch("[0-9a-f]{32}", half.get("/livez", headers={"X-Request-Id": given}).headers["x-request-id"])


def test_metrics_are_answered_where_they_have_no_port_of_their_own(make_api):
    async def metrics():
        return b"up 1\n", "text/plain; version=0.0.4"

    api, without = make_api(metrics=metrics), make_api()

    for path in ("/metrics", "/monitoring/prometheus/metrics"):
        answer = api.get(path)
        assert (answer.text, answer.headers["content-type"]) == ("up 1\n", "text/plain; version=0.0.4")
        assert api.post(path).status_code == 405
        assert without.get(path).status_code == 404


@pytest.fixture
def everything(half, kit):
    """Models of every kind."""
    half.hosting.add("a-pair", kit.pair())
    half.hosting.add("digits", kit.digits())
    for datatype in ("BOOL", "INT64", "BYTES", "BF16"):
        half.hosting.add(f"identity-{datatype.lower()}", kit.identity(datatype, -1, 2))
    half.hosting.add("scalar", kit.identity("FP32"))
    half.hosting.add("any-rank", kit.identity("FP32", None))
    no_inputs = Signature(inputs={}, outputs={"y": kit.spec("FP32", -1)})
    half.hosting.add("constant", kit.Version(1, {"serving_default": no_inputs}, lambda *_: {}))
    return half


def test_the_description_is_valid_openapi(everything, make_api):
    # What differs from model to model is examples, which any JSON is.
    validate(everything.get("/openapi.json").json())
    for model in list(everything.hosting.hosted):
        alone = make_api()
        alone.hosting.hosted = {model: everything.hosting.hosted[model]}
        assert alone.get("/openapi.json").status_code == 200
    assert make_api().get("/openapi.json").status_code == 200


def test_every_operation_has_an_id_of_its_own(half):
    paths = half.get("/openapi.json").json()["paths"]
    ids = [operation["operationId"] for path in paths.values() for operation in path.values()]

    assert len(ids) == len(set(ids)) > 30


def run_examples(api):
    """Sends every example of the description; gives the operations that were run."""
    described = api.get("/openapi.json").json()
    values = {name: parameter.get("example") for name, parameter in described["components"]["parameters"].items()}
    done = set()
    for path, operations in described["paths"].items():
        url = re.sub(r"\{(\w+)\}", lambda match: values[match.group(1)], path)
        for method, operation in operations.items():
            examples = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples")
            bodies = [example["value"] for example in examples.values()] if examples else [None]
            for body in bodies:
                answer = api.request(method.upper(), url, **({} if body is None else {"json": body}))
                assert answer.status_code == 200, (method, url, body, answer.text)
                done.add(operation["operationId"])
    return done


def test_every_example_of_the_documentation_works(half):
    assert {"predict", "v1_classify_label", "v1_regress", "v2_infer_version", "head_readyz"} <= run_examples(half)


def test_examples_work_for_other_kinds_of_inputs(make_api, kit):
    for version in (kit.pair(), kit.identity("INT64", -1, 2), kit.identity("BYTES", -1), kit.digits()):
        api = make_api(("m", version))
        body = api.get("/openapi.json").json()["paths"]
        for path in ("/v1/models/{model}:predict", "/v2/models/{model}/infer", "/predict"):
            examples = body[path]["post"]["requestBody"]["content"]["application/json"]["examples"]
            for example in examples.values():
                assert api.post(path.replace("{model}", "m"), example["value"]).status_code == 200


def test_the_documentation_asks_no_other_host(half):
    page = half.get("/docs")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "http://" not in page.text
    assert "https://" not in page.text
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 3
    for link in links:
        answer = half.get(str(httpx.URL("http://test/docs").join(link).path))
        assert answer.status_code == 200
        assert len(answer.content) > 1000
    assert "openapi.json" in page.text


def test_large_bodies_are_converted_and_answered_alike(make_api, kit):
    api = make_api(("m", kit.identity("FP64", -1)))
    values = [index / 7 for index in range(50_000)]

    v1 = api.post("/v1/models/m:predict", {"instances": values})
    v2 = api.post(
        "/v2/models/m/infer", {"inputs": [{"name": "x", "shape": [50_000], "datatype": "FP64", "data": values}]}
    )

    assert v1.json()["predictions"] == v2.json()["outputs"][0]["data"] == values
    assert gc.isenabled()


def test_the_headers_and_the_log_name_the_version_that_really_answered(half):
    hosting = half.hosting
    admission = hosting.admit("half")
    hosting.release(admission)
    hosting.instead[admission.version] = dataclasses.replace(admission, version=77, epoch=9)
    response = half.post("/v1/models/half:predict", {"instances": [[1.0]]})
    assert response.status_code == 200
    assert (response.headers["x-model-version"], response.headers["x-plan-epoch"]) == ("77", "9")
    assert half.log.predictions[-1].version == 77
