"""API keys and origins: who is let in, who is told what is missing, and what a changed file does."""

from __future__ import annotations

import json
import os

import pytest
import structlog
from pydantic import ValidationError

from windlass_server import command_line
from windlass_server.api.access import ApiKeys, KeyFileError
from windlass_server.settings import Settings

KEY, OTHER = "a-key-of-the-first-client", "another-key-of-a-client"
PREDICT = "/v1/models/half:predict"
BODY = {"instances": [1.0]}
PAGE = "https://app.example.com"


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# first client\n{KEY}\n\n{OTHER}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def guarded(make_api, kit, key_file):
    keys = ApiKeys(key_file)
    api = make_api(("half", kit.Version(1, *kit.affine(0.5, 2.0))), keys=keys)
    api.keys = keys
    return api


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {OTHER}"},
        {"x-api-key": OTHER},
        {"authorization": "Basic xyz", "x-api-key": KEY},
        {"authorization": "Bearer of-another-layer-entirely", "x-api-key": KEY},
    ],
)
def test_each_key_of_the_file_opens(guarded, headers):
    assert guarded.post(PREDICT, BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "error", "challenge"),
    [
        ({}, "an API key is needed: send the header", 'Bearer realm="windlass"'),
        ({"authorization": f"Basic {KEY}"}, "an API key is needed", 'Bearer realm="windlass"'),
        ({"authorization": "Bearer"}, "an API key is needed", 'Bearer realm="windlass"'),
        ({"x-api-key": ""}, "the API key is wrong", 'Bearer realm="windlass", error="invalid_token"'),
        ({"x-api-key": KEY[:-1]}, "the API key is wrong", 'Bearer realm="windlass", error="invalid_token"'),
        ({"x-api-key": "# first client"}, "the API key is wrong", 'Bearer realm="windlass", error="invalid_token"'),
        ({"authorization": f"Bearer {KEY}x"}, "the API key is wrong", 'Bearer realm="windlass", error="invalid_token"'),
    ],
)
def test_without_one_it_is_401_in_our_own_words(guarded, headers, error, challenge):
    answer = guarded.post(PREDICT, BODY, headers=headers)

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, challenge)
    assert answer.json()["error"].startswith(error)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"])
def test_health_is_open(guarded, path):
    assert guarded.get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/", "/docs", "/openapi.json", "/v2", "/v1/models", "/v2/models/half/ready", "/predict", "/nothing",
        "/health/", "/livez/x", "/v2/health/live/../../models/half", "/%76%32/health/live", "/v2/health/..%2Fmodels",
    ],
)  # fmt: skip
def test_everything_else_is_closed(guarded, path):
    assert guarded.get(path).status_code == 401


def test_a_repeated_header_is_no_key(guarded):
    answer = guarded.post(PREDICT, BODY, headers=[("x-api-key", KEY), ("x-api-key", "something else, 16+")])

    assert answer.status_code == 401


def test_a_refused_request_is_not_read(guarded):
    status, content = guarded.raw("POST", PREDICT, {"content-length": "1"}, [])

    assert (status, "error" in json.loads(content)) == (401, True)
    assert guarded.hosting.asked == []


def test_keys_change_with_the_file_and_a_bad_file_changes_nothing(guarded, key_file):
    def ask(key):
        return guarded.post(PREDICT, BODY, headers={"x-api-key": key}).status_code

    key_file.write_text("a-third-key-of-someone\n")
    assert guarded.keys.watched.changed()
    guarded.keys.reload()
    assert (ask(KEY), ask("a-third-key-of-someone")) == (401, 200)
    for bad in ("", "# nothing\n", "short\n", "with a space in its middle\n", "x" * 70_000):
        key_file.write_text(bad)
        with structlog.testing.capture_logs() as logs:
            guarded.keys.reload()
        assert [line["log_level"] for line in logs] == ["warning"], bad
        assert ask("a-third-key-of-someone") == 200
    key_file.unlink()
    assert guarded.keys.watched.changed()
    guarded.keys.reload()
    assert ask("a-third-key-of-someone") == 200


def test_a_replaced_link_is_a_change(tmp_path, key_file):
    other = tmp_path / "other"
    other.write_bytes(key_file.read_bytes())
    link = tmp_path / "link"
    link.symlink_to(key_file)
    keys = ApiKeys(link)
    assert not keys.watched.changed()

    part = tmp_path / "part"
    part.symlink_to(other)
    part.replace(link)

    assert keys.watched.changed()
    assert not keys.watched.changed()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "holds no key: write one per line"),
        (b"good-enough-to-be-a-key\nshort\n", "line 2 of the file of API keys"),
        (b"\xff" * 20, "line 1 of the file of API keys"),
        (b"\n".join(b"key-number-%08d" % number for number in range(257)), "holds 257 keys; 256 are read"),
        (b"x" * 65_537, "it has more than 65536 bytes"),
    ],
)
def test_a_file_that_holds_no_keys_is_refused_without_showing_it(tmp_path, content, error):
    path = tmp_path / "keys"
    path.write_bytes(content)

    with pytest.raises(KeyFileError, match=error) as caught:
        ApiKeys(path)
    assert "short" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(KeyFileError, match="can't be read: No such file"):
        ApiKeys(tmp_path / "nothing")


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_file_that_everyone_reads_is_a_warning(key_file, mode, warned):
    key_file.chmod(mode)

    with structlog.testing.capture_logs() as logs:
        ApiKeys(key_file)

    assert [line["log_level"] for line in logs] == ["warning"] * warned


# --- origins ---


def preflight(api, origin, path=PREDICT):
    asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    return api.request("OPTIONS", path, headers=asked)


@pytest.mark.parametrize("path", [PREDICT, "/v2/models/half/infer", "/predict/half"])
def test_a_page_of_a_set_origin_may_ask(make_api, kit, key_file, path):
    api = make_api(("half", kit.Version(1, *kit.affine(0.5, 2.0))), keys=ApiKeys(key_file), cors_origins=[PAGE])

    before = preflight(api, PAGE, path)
    answer = api.post(path, {}, headers={"origin": PAGE, "x-api-key": KEY})
    refused = api.post(path, {}, headers={"origin": PAGE})

    assert (before.status_code, before.headers["access-control-allow-origin"]) == (204, PAGE)
    assert "POST" in before.headers["access-control-allow-methods"]
    assert "x-api-key" in before.headers["access-control-allow-headers"].lower()
    for each, status in ((answer, 400), (refused, 401)):
        assert (each.status_code, each.headers["access-control-allow-origin"]) == (status, PAGE)
        assert "X-Model-Version" in each.headers["access-control-expose-headers"]
        assert "Origin" in each.headers["vary"]
    for each in (before, answer, refused):
        assert "access-control-allow-credentials" not in each.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://app.example.com.evil.example", "http://app.example.com"]
)
def test_others_get_no_leave(make_api, kit, origin):
    api = make_api(("half", kit.Version(1, *kit.affine(0.5, 2.0))), cors_origins=[PAGE])

    for answer in (preflight(api, origin), api.post(PREDICT, BODY, headers={"origin": origin})):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_any_origin_is_allowed_without_credentials(make_api, kit):
    api = make_api(("half", kit.Version(1, *kit.affine(0.5, 2.0))), cors_origins=["*"])

    for answer in (preflight(api, PAGE), api.post(PREDICT, BODY, headers={"origin": PAGE})):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


def test_it_is_off_by_default(half):
    assert "access-control-allow-origin" not in half.post(PREDICT, BODY, headers={"origin": PAGE}).headers


def test_origins_come_by_flags_or_by_one_variable(monkeypatch):
    given = command_line.parse(["--cors-origin", PAGE, "--cors-origin", "http://localhost:3000"])
    assert given.cors_origin == (PAGE, "http://localhost:3000")
    monkeypatch.setenv("WINDLASS_CORS_ORIGIN", f"{PAGE}, http://[::1]:3000")
    assert command_line.parse([]).cors_origin == (PAGE, "http://[::1]:3000")
    assert os.environ["WINDLASS_CORS_ORIGIN"]


@pytest.mark.parametrize(
    "origin",
    [
        "app.example.com",
        "https://app.example.com/",
        "https://App.example.com",
        "null",
        "https://*.example.com",
        "ftp://x",
    ],
)
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(ValidationError, match="is no origin"):
        Settings(cors_origin=(origin,))
