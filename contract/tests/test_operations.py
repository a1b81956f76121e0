"""Which operations a model may use: graphs, functions and the saver's own, written by hand field by field."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass_contract.manifest import ModelFormat
from windlass_contract.operations import Forbidden, describe, forbidden_operations, operation_list
from windlass_contract.tflite_operators import builtin_operators, custom_operators
from windlass_contract.wire import fields


def varint(value: int) -> bytes:
    """As protocol buffers write numbers."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(*parts: tuple[int, bytes | str]) -> bytes:
    """A message of length-delimited fields."""
    out = b""
    for number, content in parts:
        data = content.encode() if isinstance(content, str) else content
        out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def node(name: str, op: str, *inputs: str, calls: str = "", attr: tuple[str, str] | None = None) -> bytes:
    """A NodeDef; `calls`: a function that attribute f names."""
    parts: list[tuple[int, bytes | str]] = [(1, name), (2, op), *((3, each) for each in inputs)]
    if calls:
        parts.append((5, message((1, "f"), (2, message((10, message((1, calls))))))))
    if attr:
        parts.append((5, message((1, attr[0]), (2, message((2, attr[1]))))))
    return message(*parts)


def function(name: str, *nodes: bytes) -> bytes:
    """A FunctionDef."""
    return message((1, message((1, name))), *((3, each) for each in nodes))


def graph(nodes: list[bytes], functions: list[bytes], *more: tuple[int, bytes]) -> bytes:
    """A MetaGraphDef as a field of SavedModel."""
    library = message(*((1, each) for each in functions))
    return message((2, message((2, message(*((1, each) for each in nodes), (2, library))), *more)))


SAVER = (3, message((1, "saver_filename:0"), (2, "save:0"), (3, "restore")))
SAVING = function("__inference__traced_save_1", node("s", "SaveV2", "prefix"), node("m", "MergeV2Checkpoints", "s"))
RESTORING = function("__inference__traced_restore_2", node("r", "RestoreV2", "prefix"))
SAVER_NODES = [
    node("saver_filename", "Placeholder"),
    node("save", "StatefulPartitionedCall", "saver_filename", calls="__inference__traced_save_1"),
    node("restore", "StatefulPartitionedCall", "saver_filename", calls="__inference__traced_restore_2"),
]


def found(folder: Path, content: bytes, *allowed: str) -> list[Forbidden]:
    """What is forbidden of a saved_model.pb."""
    (folder / "saved_model.pb").write_bytes(content)
    return forbidden_operations(folder, ModelFormat.SAVED_MODEL, allowed)


def operations(folder: Path, content: bytes, *allowed: str) -> set[str]:
    return {use.operation for use in found(folder, content, *allowed)}


def test_what_computes_is_allowed(tmp_path: Path) -> None:
    assert found(tmp_path, graph([node("a", "MatMul"), node("b", "Relu", "a")], [])) == []


@pytest.mark.parametrize(
    "op", ["ReadFile", "WriteFile", "MlirPassthroughOp", "Abort", "DataServiceDatasetV4", "_Send", "MyOp"]
)
def test_what_is_refused_or_unknown_is_found_and_allowed_by_name_alone(tmp_path: Path, op: str) -> None:
    content = graph([node("a", op)], [])
    assert operations(tmp_path, content) == {op}
    assert operations(tmp_path, content, "Other") == {op}
    assert operations(tmp_path, content, op) == set()


@pytest.mark.parametrize("op", ["EagerPyFunc", "PyFunc", "PyFuncStateless"])
def test_a_call_of_python_is_refused_whoever_allows_it_since_the_function_is_not_in_the_files(
    tmp_path: Path, op: str
) -> None:
    (tmp_path / "saved_model.pb").write_bytes(graph([node("a", op)], []))
    found = forbidden_operations(tmp_path, ModelFormat.SAVED_MODEL, [op])
    assert [use.operation for use in found] == [op]
    assert "--allow-operation" not in describe(found)


def test_a_forbidden_operation_is_found_in_a_function_that_nobody_seems_to_call(tmp_path: Path) -> None:
    content = graph([], [function("while_body", node("r", "ReadFile"))])
    (use,) = found(tmp_path, content)
    assert use.where == "node 'r' of function 'while_body'"


def test_every_graph_of_the_file_counts(tmp_path: Path) -> None:
    content = graph([node("a", "MatMul")], []) + graph([node("b", "PyFunc")], [])
    assert operations(tmp_path, content) == {"PyFunc"}


def test_an_operation_that_is_named_twice_counts_twice(tmp_path: Path) -> None:
    content = graph([message((1, "a"), (2, "ReadFile"), (2, "MatMul"))], [])
    assert operations(tmp_path, content) == {"ReadFile"}


def test_a_function_named_twice_hides_nothing(tmp_path: Path) -> None:
    content = graph([], [function("f", node("r", "ReadFile")), function("f", node("a", "MatMul"))])
    assert operations(tmp_path, content) == {"ReadFile"}


def test_a_call_by_name_is_allowed_but_not_of_a_function_called_like_an_inside(tmp_path: Path) -> None:
    functions = [function("helper", node("a", "MatMul")), function("_Recv", node("a", "MatMul"))]
    assert operations(tmp_path, graph([node("h", "helper"), node("r", "_Recv")], functions)) == {"_Recv"}


def test_the_savers_own_file_operations_are_allowed(tmp_path: Path) -> None:
    assert found(tmp_path, graph(SAVER_NODES, [SAVING, RESTORING], SAVER)) == []


def test_in_a_graph_without_functions_the_saver_is_allowed_too(tmp_path: Path) -> None:
    nodes = [
        *(node("save/Const", "Const"), node("save/SaveV2", "SaveV2", "save/Const")),
        node("save/control_dependency", "Identity", "save/Const", "^save/SaveV2"),
        *(node("save/RestoreV2", "RestoreV2", "save/Const"), node("v", "VarHandleOp")),
        *(node("save/Assign", "AssignVariableOp", "v", "save/RestoreV2:0"), node("all", "NoOp", "^save/Assign")),
    ]
    saver = (3, message((1, "save/Const:0"), (2, "save/control_dependency:0"), (3, "all")))
    assert found(tmp_path, graph(nodes, [], saver)) == []
    signature = message((1, "s"), (2, message((2, message((1, "y"), (2, message((1, "save/RestoreV2:0"))))))))
    assert operations(tmp_path, graph(nodes, [], saver, (5, signature))) == {"RestoreV2"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (graph(SAVER_NODES, [SAVING, RESTORING]), {"SaveV2", "MergeV2Checkpoints", "RestoreV2"}),
        (
            graph([*SAVER_NODES, node("x", "PartitionedCall", calls="__inference__traced_save_1")], [SAVING], SAVER),
            {"SaveV2", "MergeV2Checkpoints"},
        ),
        (
            graph(
                SAVER_NODES,
                [SAVING, function("__inference__traced_restore_2", node("c", "PartitionedCall", calls="g")),
                 function("g", node("s", "SaveV2"))],
                SAVER,
            ),
            {"SaveV2", "MergeV2Checkpoints"},
        ),
        (
            graph(SAVER_NODES, [SAVING], SAVER, (7, message((2, message((1, "__inference__traced_save_1")))))),
            {"SaveV2", "MergeV2Checkpoints"},
        ),
        (graph([node("s", "SaveV2")], [], SAVER), {"SaveV2"}),
    ],
    ids=["no saver", "called by another", "saves at load", "an object names it", "a node by itself"],
)  # fmt: skip
def test_saving_and_restoring_by_anyone_else_is_forbidden(tmp_path: Path, content: bytes, expected: set[str]) -> None:
    assert operations(tmp_path, content) == expected


def test_messages_go_to_the_log_and_not_to_files(tmp_path: Path) -> None:
    assert found(tmp_path, graph([node("p", "PrintV2", attr=("output_stream", "stderr"))], [])) == []
    assert found(tmp_path, graph([node("p", "PrintV2")], [])) == []
    (use,) = found(tmp_path, graph([node("p", "PrintV2", attr=("output_stream", "file:///tmp/x"))], []))
    assert use.why == "writes to a file"


def test_a_table_is_filled_from_an_asset_and_not_from_a_path_in_the_function(tmp_path: Path) -> None:
    table = node("t", "InitializeTableFromTextFileV2", "table", "asset")
    assert found(tmp_path, graph([], [function("f", table)])) == []
    assert operations(tmp_path, graph([], [function("f", table, node("asset", "Const"))])) == {
        "InitializeTableFromTextFileV2"
    }


@pytest.mark.parametrize("name", ["/etc/passwd", "../../x", "a/../../x", "gs://bucket/x"])
def test_assets_outside_the_folder_are_refused_whoever_allows_what(tmp_path: Path, name: str) -> None:
    (use,) = found(tmp_path, graph([], [], (6, message((2, name)))))
    assert use.operation == ""
    assert "outside the version's folder" in str(use)
    assert found(tmp_path, graph([], [], (6, message((2, "vocabulary.txt"))))) == []


def test_the_description_names_place_cause_and_remedy() -> None:
    text = describe([Forbidden("ReadFile", "node 'r'", "reads or writes files")])
    assert text == (
        "the model may not do all that it does: operation ReadFile (node 'r') reads or writes files. Remedy: pack a "
        "model that does without; a server's owner who trusts its models can start replicas with "
        "--allow-operation ReadFile"
    )


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, message((2, b"\x0a\x7f")), b"\x0b\x0c", message((1, "x"))])
def test_what_is_no_saved_model_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError):
        found(tmp_path, content)


@given(st.binary(max_size=200))
def test_whatever_the_bytes_the_walker_ends_with_fields_in_bounds_or_a_value_error(content: bytes) -> None:
    data = memoryview(content)
    try:
        for _, (start, end) in fields(data, 0, len(data)):
            assert 0 <= start <= end <= len(data)
    except ValueError:
        pass


@given(st.binary(max_size=200))
def test_whatever_the_bytes_of_a_tflite_file_it_is_read_or_a_value_error(content: bytes) -> None:
    for read in (custom_operators, builtin_operators):
        with contextlib.suppress(ValueError):
            read(memoryview(b"\x08\0\0\0TFL3" + content))


def test_the_custom_operators_of_a_tflite_file_are_found(tmp_path: Path) -> None:
    # By hand: root table at 20 with operator_codes (field 1); one OperatorCode with builtin 32 and a name.
    data = bytearray(120)
    struct.pack_into("<I4s", data, 0, 20, b"TFL3")
    struct.pack_into("<HHHH", data, 12, 8, 8, 0, 4)  # vtable of Model: size, table size, version, operator_codes
    struct.pack_into("<iI", data, 20, 8, 12)  # Model: its vtable, offset from 24 to the vector at 36
    struct.pack_into("<II", data, 36, 1, 24)  # one entry, at 40 + 24 = 64
    struct.pack_into("<HHHHHH", data, 50, 12, 12, 4, 8, 0, 0)  # vtable of OperatorCode
    struct.pack_into("<ibxxxI", data, 64, 14, 32, 8)  # its vtable, deprecated builtin, name at 72 + 8 = 80
    struct.pack_into("<I10s", data, 80, 10, b"FlexReadFi")
    (tmp_path / "model.tflite").write_bytes(bytes(data))
    assert custom_operators(memoryview(bytes(data))) == ["FlexReadFi"]
    assert builtin_operators(memoryview(bytes(data))) == {32}
    assert [use.operation for use in forbidden_operations(tmp_path, ModelFormat.TFLITE)] == ["FlexReadFi"]
    assert forbidden_operations(tmp_path, ModelFormat.TFLITE, ["FlexReadFi"]) == []


def test_no_operation_is_in_two_sections() -> None:
    known = operation_list()
    assert not known.allowed & known.checked
    assert not (known.allowed | known.checked) & known.refused.keys()
    assert len(known.allowed) > 1000
