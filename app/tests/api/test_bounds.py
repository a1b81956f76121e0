"""What is read of a request: compression, size, depth and elements, each bounded before memory is spent."""

import contextlib
import gzip
import json
import re
import tracemalloc
import zlib

import pytest
import rapidjson
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_server.api.compression import preferred_encoding
from windlass_server.api.json_text import JsonSyntaxError, check_bounds, parse
from windlass_server.api.limits import Limits
from windlass_server.errors import ServingError

HALF = "/v1/models/half/versions/1:predict"
BODY = b'{"instances": [1.0, 2.0, 5.0]}'
ANSWER = {"predictions": [2.5, 3.0, 4.5]}


def raw_deflate(data):
    """Without the zlib header: what some think `deflate` means, and no client here sends."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("GZIP", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY, mtime=0)),
        ("gzip", gzip.compress(BODY[:10], mtime=0) + gzip.compress(BODY[10:], mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("identity", BODY),
        ("", BODY),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_compressed_bodies_are_read_however_they_are_cut(half, encoding, data, size):
    chunks = [data[start : start + size] for start in range(0, len(data), size)]

    status, content = half.raw("POST", HALF, {"content-encoding": encoding}, chunks)

    assert (status, json.loads(content)) == (200, ANSWER)


@pytest.mark.parametrize(
    ("encoding", "data", "error"),
    [
        ("br", BODY, "Content-Encoding 'br' is not supported: send gzip, deflate (zlib) or none"),
        ("gzip, gzip", BODY, "Content-Encoding 'gzip, gzip' is not supported: send gzip, deflate (zlib) or none"),
        ("gzip", BODY, "the body is not gzip: "),
        ("gzip", gzip.compress(BODY, mtime=0)[:-4], "the body is not gzip: it ends too early"),
        ("gzip", gzip.compress(BODY, mtime=0) + b"x", "the body is not gzip: "),
        ("deflate", raw_deflate(BODY), "the body is not deflate: "),
        ("deflate", zlib.compress(BODY) + b"x", "the body is not deflate: something follows its end"),
        ("deflate", zlib.compress(BODY)[:-1], "the body is not deflate: it ends too early"),
    ],
)
def test_broken_compression_is_400(half, encoding, data, error):
    status, content = half.raw("POST", HALF, {"content-encoding": encoding}, [data])

    assert status == 400
    assert json.loads(content)["error"].startswith(error)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", ""])
@pytest.mark.parametrize("path", [HALF, "/v2/models/half/infer", "/predict", "/v2/repository/index"])
def test_a_body_beyond_the_bound_is_413_without_being_kept(make_api, kit, encoding, path):
    api = make_api(("half", kit.Version(1, *kit.affine(0.5, 2.0))), limits=Limits(max_body_bytes=100_000))
    bomb = b" " * 50_000_000
    data = {"gzip": gzip.compress, "deflate": zlib.compress, "": bytes}[encoding](bomb)
    del bomb
    tracemalloc.start()
    try:
        status, content = api.raw("POST", path, {"content-encoding": encoding}, [data])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (status, json.loads(content)) == (413, {"error": "the body is larger than the 100000 bytes that are read"})
    assert peak < 5_000_000


def test_a_declared_length_beyond_the_bound_is_413_before_anything_is_read(make_api):
    api = make_api(limits=Limits(max_body_bytes=10))

    status, _ = api.raw("POST", "/v2/models/m/infer", {"content-length": "11"}, [])

    assert status == 413


def test_a_bomb_of_bombs_is_bounded_by_what_it_inflates_to(make_api, kit):
    api = make_api(("half", kit.Version(1, *kit.affine(0.5, 2.0))), limits=Limits(max_body_bytes=1_000_000))
    members = gzip.compress(b" " * 900_000) * 2

    status, _ = api.raw("POST", HALF, {"content-encoding": "gzip"}, [members])

    assert status == 413


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        (b"gzip", "gzip"),
        (b"gzip, deflate, br", "gzip"),
        (b"deflate", "deflate"),
        (b"gzip;q=0.5, deflate;q=0.8", "deflate"),
        (b"GZIP;q=1.0", "gzip"),
        (b"*", "gzip"),
        (b"gzip;q=0, *", "deflate"),
        (b"gzip;q=0", None),
        (b"gzip;q=high", None),
        (b"identity", None),
        (b"br", None),
        (b"", None),
    ],
)
def test_the_client_chooses_the_answers_compression(accepted, encoding):
    assert preferred_encoding(accepted) == encoding


@pytest.mark.parametrize("rows", [1_000, 100_000])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_large_answers_are_compressed_when_asked(make_api, kit, rows, encoding):
    api = make_api(("m", kit.identity("FP32", -1)))
    body = {"instances": [1.0] * rows}

    asked = api.post("/v1/models/m:predict", body, headers={"accept-encoding": encoding})
    unasked = api.post("/v1/models/m:predict", body)

    assert asked.headers["content-encoding"] == encoding
    assert asked.headers["vary"] == "Accept-Encoding"
    assert int(asked.headers["content-length"]) < len(unasked.content)
    assert asked.json() == unasked.json()
    assert "content-encoding" not in unasked.headers


@pytest.mark.parametrize(
    ("limits", "body", "status", "error"),
    [
        (Limits(max_json_bytes=10), '{"instances": [1]}', 413, "the JSON has 18 bytes; 10 are read"),
        (Limits(max_json_elements=5), '{"instances": [1, 2, 3, 4, 5]}', 413, "the JSON has about 6 values; 5 are read"),
        (Limits(max_json_depth=3), '{"instances": [[[1]]]}', 400, "the JSON is nested 4 deep; 3 levels are read"),
        (Limits(), '{"instances": ' + "[" * 100_000, 400, "the JSON is nested 100001 deep; 32 levels are read"),
        (Limits(), '{"a":' * 100_000, 400, "the JSON is nested 100000 deep; 32 levels are read"),
    ],
)
def test_json_is_bounded_before_it_is_parsed(make_api, kit, limits, body, status, error):
    api = make_api(("half", kit.Version(1, *kit.affine(0.5, 2.0))), limits=limits)

    for path in (HALF, "/v2/models/half/infer", "/predict"):
        answer = api.post(path, body)
        assert answer.status_code == status
        assert error in answer.json()["error"]


@pytest.mark.parametrize(
    "text",
    ['"[[[[["', r'"\"[[[[["', r'"\\", [1, "[[[["]', r'{"a\"[[[": "]]]]"}', '["[[[[", "]]]"]', "[[1],[2],[3],[4]]"],
)
def test_brackets_within_strings_are_no_depth(text):
    check_bounds(text.encode(), Limits(max_json_depth=2, max_json_elements=8))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def depth_of(value):
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@settings(max_examples=150, deadline=None)
@given(value=json_values, ascii_only=st.booleans())
def test_all_json_is_read_as_it_was_written_and_its_depth_is_exact(value, ascii_only):
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8")
    depth = depth_of(value)

    assert json.dumps(parse(body, Limits(max_json_depth=depth))) == json.dumps(value)
    if depth:
        with pytest.raises(ServingError, match="nested"):
            parse(body, Limits(max_json_depth=depth - 1))


@st.composite
def damaged_json(draw):
    """A request with a few characters missing, added or cut off."""
    text = draw(
        st.sampled_from(
            [
                '{"instances": [1.0, 2.5e3, -4], "a": {"b": [true, null, "x\\n\\u00e9"]}}',
                '{"a":"b","c":[{"d":1},{"e":[]}]}',
            ]
        )
    )
    for _ in range(draw(st.integers(1, 2))):
        position = draw(st.integers(0, len(text)))
        added = draw(st.sampled_from([*'{}[],:"0.eE-tfn\\ x', ""]))
        text = draw(
            st.sampled_from(
                [text[:position] + added + text[position:], text[:position] + text[position + 1 :], text[:position]]
            )
        )
    return text


def refusal(read):
    try:
        read()
    except (JsonSyntaxError, rapidjson.JSONDecodeError) as error:
        return str(error)
    return None


@settings(max_examples=500, deadline=None)
@given(text=damaged_json())
def test_mistakes_are_named_as_rapidjson_names_them(text):
    ours = refusal(lambda: parse(text.encode(), Limits()))
    theirs = refusal(lambda: rapidjson.loads(text.encode(), number_mode=rapidjson.NM_NAN))

    if theirs is not None:
        offset, reason = re.fullmatch(r"Parse error at offset (\d+): (.*)", theirs).groups()
        # TensorFlow Serving's RapidJSON writes the brackets without quotes.
        theirs = f"{reason} at offset: {offset}".replace("']'", "]").replace("'}'", "}")
    assert ours == theirs


@settings(max_examples=500, deadline=None)
@given(text=st.text(alphabet='{}[],:"\\0123.eE+-tfnNaIu \n\x01é', max_size=20))
def test_no_text_crashes_the_parser(text):
    with contextlib.suppress(JsonSyntaxError):
        parse(text.encode(), Limits())


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=30))
def test_no_bytes_crash_the_parser(data):
    with contextlib.suppress(JsonSyntaxError):
        parse(data, Limits())


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "1" * 400, "9" * 1_000_000])
def test_a_number_of_too_many_digits_is_the_clients_mistake(half, number):
    answer = half.post(HALF, f'{{"instances": [[{number}]]}}')

    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "JSON Parse error: Number too big to be stored in double. at offset: 16",
    )


@pytest.mark.parametrize("text", ['{"[":"]"}', '{"[":""}', '{"":"[[["}', '["","[",""]', '{"a":"\\"[","b":["]"]}'])
def test_brackets_in_strings_are_no_depth(text):
    depth = 1 + text.count(":[")
    check_bounds(text.encode(), Limits(max_json_depth=depth))
    assert parse(text.encode(), Limits(max_json_depth=depth)) == json.loads(text)
