"""JSON and YAML from outside: bounded, and whatever hides an error is one."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_contract.document import MAX_DEPTH, Document, DocumentError, dump_yaml, load_json, load_yaml

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXT, children, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(JSON)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        assert load_json(text, "x") == value
        assert load_json(text.encode(), "x") == value


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers() | st.booleans() | st.text("abc:- #'", max_size=9)
    )
)
def test_yaml_is_read_as_it_was_written(value: dict[str, Any]) -> None:
    assert load_yaml(yaml.safe_dump(value), "x") == value


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text("[]{}:,-&*!|>'\"\n ab01.", max_size=200))
def test_whatever_comes_is_read_or_refused(data: bytes | str) -> None:
    for load in (load_json, load_yaml):
        with suppress(DocumentError):
            assert isinstance(load(data, "file"), dict | list | str | int | float | bool | bytes | set | type(None))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is not JSON"),
        ("{'a': 1}", "it is not JSON"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("[Infinity]", "Infinity is not JSON"),
        ("-Infinity", "-Infinity is not JSON"),
        ("1e400", "1e400 is too large a number"),
        ("1" * 5000, "it is not JSON"),
        ('{"a": 1, "b": {"c": 1, "d": 2, "c": 3}}', "the key 'c' is given twice"),
        ('{"a": 1, "\\u0061": 1}', "the key 'a' is given twice"),
        ('"\\ud800"', "half a surrogate pair"),
        ('{"\\udfff": 1}', "half a surrogate pair"),
        ("[" * 65 + "]" * 65, "nested more than 64 levels deep"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested more than 64 levels deep"),
        ("[" * 1_000_000, "nested more than 64 levels deep"),
        ('{"a":' * 500_000, "nested more than 64 levels deep"),
    ],
)
def test_json_that_is_refused(text: str, words: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(DocumentError, match=r"^file: ") as raised:
            load_json(data, "file")
        assert words in str(raised.value)
        assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "it is not YAML"),
        ("a: b: c", "mapping values are not allowed in this context at line 1, column 5"),
        ("a:\n\t- b", "it is not YAML"),
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice at line 3, column 1"),
        ("a: {b: 1, 'b': 2}", "the key 'b' is given twice"),
        ("a: &x [1]\nb: *x", "line 2: aliases (*name) are not read; write it out"),
        ("a: &a [&b [&c [1]], *b]\nd: *a", "aliases"),
        ("a: {<<: *x}", "aliases"),
        ("a: .nan", ".nan is no finite number at line 1"),
        ("a: -.inf", "-.inf is no finite number"),
        ("a: 1.0e+999", "1.0e+999 is no finite number"),
        ("a: 1\n---\nb: 1", "one document is expected: put each into a file of its own"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !local x", "could not determine a constructor"),
        ("? [a, b]\n: 1", "unhashable key"),
        ("[" * 65 + "]" * 65, "line 1: it is nested more than 64 levels deep"),
        ("- " * 100 + "x", "nested more than 64 levels deep"),
        ("\n".join("  " * depth + "a:" for depth in range(100)), "line 65: it is nested more than 64 levels deep"),
        ("[" * 900_000, "nested more than 64 levels deep"),
        ("a: \x07", "it is not YAML"),
    ],
)
def test_yaml_that_is_refused(text: str, words: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(DocumentError, match=r"^file: ") as raised:
            load_yaml(data, "file")
        assert words in str(raised.value)


@pytest.mark.parametrize("load", [load_json, load_yaml])
def test_the_size_is_looked_at_before_anything_else(load: Any) -> None:
    with pytest.raises(DocumentError, match="it has 11 bytes; at most 10 are read"):
        load(b"[" * 11, "file", 10)
    assert load(b'"12345678"', "file", 10) == "12345678"


def test_as_deep_as_allowed_is_read() -> None:
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert load_json(text, "x") == load_yaml(text, "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z"),
        ("a: 2026-01-01", "2026-01-01"),
        ("a: '5'", "5"),
        ("a: 5", 5),
        ("a: 0.5", 0.5),
        ("a: 50%", "50%"),
        ("a: 10m", "10m"),
        ("a: ~", None),
        ("a: &anchor x", "x"),
    ],
)
def test_plain_yaml_values(text: str, value: Any) -> None:
    assert load_yaml(text, "x") == {"a": value}


def test_a_document_names_its_source() -> None:
    with pytest.raises(DocumentError) as raised:
        Document.parse_json(b"[1]", "http://operator/plan")
    assert raised.value.source == "http://operator/plan"
    assert str(raised.value).startswith("http://operator/plan: the document is [1]: fields")


def test_what_is_written_as_yaml_is_read_again_and_for_people() -> None:
    value = {"why": "naïve 漢字 😀 𠮷 \\U", "lines": ["a\nb", "1", "yes", ""], "n": [1, 1.5, None, True]}
    text = dump_yaml(value)
    assert load_yaml(text, "file") == value
    assert list(yaml.safe_load(text)) == ["why", "lines", "n"]
    for shown in ("naïve 漢字", "😀", "𠮷"):
        assert shown in text
