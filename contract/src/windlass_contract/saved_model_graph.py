"""A SavedModel's graphs and functions, as far as their operations are concerned, read without TensorFlow.

The names of the fields are those of TensorFlow's `.proto` files. Of a field that may stand once but stands twice, both
count: a parser takes the last, so what it takes is always among what is seen here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .wire import Span, fields, named

_META_GRAPHS = 2  # SavedModel
_GRAPH_DEF, _SAVER_DEF, _COLLECTION_DEF, _SIGNATURE_DEF, _ASSET_FILE_DEF, _OBJECT_GRAPH_DEF = 2, 3, 4, 5, 6, 7
_GRAPH_NODE, _LIBRARY = 1, 2  # GraphDef
_FUNCTION, _GRADIENT = 1, 2  # FunctionDefLibrary
_FUNCTION_SIGNATURE, _FUNCTION_NODE = 1, 3  # FunctionDef
_NODE_NAME, _NODE_OP, _NODE_INPUT, _NODE_ATTR = 1, 2, 3, 5  # NodeDef
_KEY, _VALUE = 1, 2  # of a map's entry
_ATTR_LIST, _ATTR_S, _ATTR_FUNC = 1, 2, 10  # AttrValue
_LIST_FUNC = 9  # AttrValue.ListValue
_FUNC_NAME, _FUNC_ATTR = 1, 2  # NameAttrList
_SAVE_TENSOR, _RESTORE_OP = 2, 3  # SaverDef
_NODE_LIST = 1  # CollectionDef
_OUTPUTS = 2  # SignatureDef
_TENSOR_NAME, _SPARSE, _COMPOSITE = 1, 4, 5  # TensorInfo
_COMPONENTS = 2  # TensorInfo.CompositeTensor
_ASSET_NAME = 2  # AssetFileDef
_OBJECT, _CONCRETE_FUNCTIONS = 1, 2  # SavedObjectGraph
_OBJECT_FUNCTION, _OBJECT_BARE_FUNCTION = 6, 8  # SavedObject
_GRADIENT_FUNCTION, _GRADIENT_OF = 2, 1  # GradientDef
_MAX_DEPTH = 20
_CONST = "Const"


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a graph or function."""

    name: str
    op: str
    inputs: tuple[str, ...]
    """Names of nodes, and of a function's arguments, without outputs' numbers."""
    calls: tuple[str, ...]
    """Functions it may call."""
    streams: tuple[bytes, ...]
    """Its attribute `output_stream`."""


@dataclass
class Body:
    """A graph, or a function."""

    name: str
    """Empty: the graph itself."""
    nodes: list[Node] = field(default_factory=list)
    constants: set[str] = field(default_factory=set)

    def inputs_by_name(self) -> dict[str, list[str]]:
        """What each node depends on; two nodes of a name count together."""
        inputs: dict[str, list[str]] = {}
        for node in self.nodes:
            inputs.setdefault(node.name, []).extend(node.inputs)
        return inputs


@dataclass
class MetaGraph:
    """One of a SavedModel's graphs with its functions."""

    main: Body
    functions: dict[str, Body] = field(default_factory=dict)
    assets: list[str] = field(default_factory=list)
    named_functions: set[str] = field(default_factory=set)
    """What the model's objects name: anyone may call them."""
    fetched: set[str] = field(default_factory=set)
    """Nodes that signatures and initializers ask for."""
    save_node: str = ""
    restore_node: str = ""


def meta_graphs(data: memoryview) -> Iterator[MetaGraph]:
    """Each of the file's graphs. Raises `ValueError` for what is no SavedModel."""
    for place in named(data, (0, len(data)), _META_GRAPHS):
        yield _meta_graph(data, place)


def _meta_graph(data: memoryview, place: Span) -> MetaGraph:
    graph = MetaGraph(Body(""))
    for number, part in fields(data, *place):
        if number == _GRAPH_DEF:
            _read_graph(data, part, graph)
        elif number == _SAVER_DEF:
            graph.save_node = _node_of(_last_text(data, part, _SAVE_TENSOR)) or graph.save_node
            graph.restore_node = _node_of(_last_text(data, part, _RESTORE_OP)) or graph.restore_node
        elif number in {_COLLECTION_DEF, _SIGNATURE_DEF}:
            for value in named(data, part, _VALUE):
                graph.fetched.update((_collected if number == _COLLECTION_DEF else _outputs)(data, value))
        elif number == _ASSET_FILE_DEF:
            graph.assets.extend(_text(data, each) for each in named(data, part, _ASSET_NAME))
        elif number == _OBJECT_GRAPH_DEF:
            _read_objects(data, part, graph)
    return graph


def _collected(data: memoryview, place: Span) -> Iterator[str]:
    """The nodes of a collection, among them what initializes the model."""
    for nodes in named(data, place, _NODE_LIST):
        yield from (_node_of(_text(data, each)) for each in named(data, nodes, 1))


def _outputs(data: memoryview, place: Span) -> Iterator[str]:
    """The nodes that a signature's outputs are of."""
    for output in named(data, place, _OUTPUTS):
        for info in named(data, output, _VALUE):
            yield from _tensors(data, info, 0)


def _tensors(data: memoryview, place: Span, depth: int) -> Iterator[str]:
    """The nodes of a TensorInfo: of a tensor, a sparse one, or one put together."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"tensors of tensors, more than {_MAX_DEPTH} deep")
    for number, part in fields(data, *place):
        if number == _TENSOR_NAME:
            yield _node_of(_text(data, part))
        elif number == _SPARSE:
            yield from (_node_of(_text(data, each)) for _, each in fields(data, *part))
        elif number == _COMPOSITE:
            for component in named(data, part, _COMPONENTS):
                yield from _tensors(data, component, depth + 1)


def _read_graph(data: memoryview, place: Span, graph: MetaGraph) -> None:
    for number, part in fields(data, *place):
        if number == _GRAPH_NODE:
            _read_node(data, part, graph.main)
        elif number == _LIBRARY:
            for kind, entry in fields(data, *part):
                if kind == _FUNCTION:
                    _read_function(data, entry, graph)
                elif kind == _GRADIENT:
                    # Whoever calls the one may come to the other; a gradient is called by its own name alone.
                    graph.named_functions.update(_text(data, each) for each in named(data, entry, _GRADIENT_FUNCTION))


def _read_function(data: memoryview, place: Span, graph: MetaGraph) -> None:
    names = [
        _text(data, each) for signature in named(data, place, _FUNCTION_SIGNATURE) for each in named(data, signature, 1)
    ] or [""]
    body = graph.functions.setdefault(names[-1], Body(names[-1] or "(unnamed)"))
    for part in named(data, place, _FUNCTION_NODE):
        _read_node(data, part, body)


def _read_node(data: memoryview, place: Span, body: Body) -> None:
    name = ""
    operations = []
    inputs = []
    calls: list[str] = []
    for number, (start, end) in fields(data, *place):
        if number == _NODE_NAME:
            name = _text(data, (start, end))
        elif number == _NODE_OP:
            operations.append(_text(data, (start, end)))
        elif number == _NODE_INPUT:
            inputs.append(_node_of(_text(data, (start, end))))
        elif number == _NODE_ATTR:
            for key, (a, b) in fields(data, start, end):
                if key == _VALUE:
                    _read_attribute(data, (a, b), calls, 0)
    if _CONST in operations:
        body.constants.add(name)
    for operation in operations or [""]:
        # Only for PrintV2 a text among the attributes is an output stream that counts.
        text = tuple(_stream(data, place)) if operation == "PrintV2" else ()
        body.nodes.append(Node(name, operation, tuple(inputs), (*calls, operation), text))


def _stream(data: memoryview, place: Span) -> Iterator[bytes]:
    for entry in named(data, place, _NODE_ATTR):
        keys = [_text(data, each) for each in named(data, entry, _KEY)]
        if "output_stream" in keys:
            for value in named(data, entry, _VALUE):
                yield from (bytes(data[a:b]) for a, b in named(data, value, _ATTR_S))


def _read_attribute(data: memoryview, place: Span, calls: list[str], depth: int) -> None:
    """The functions that an attribute names."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"attributes in attributes, more than {_MAX_DEPTH} deep")
    for number, part in fields(data, *place):
        if number == _ATTR_FUNC:
            _read_call(data, part, calls, depth)
        elif number == _ATTR_LIST:
            for function in named(data, part, _LIST_FUNC):
                _read_call(data, function, calls, depth)


def _read_call(data: memoryview, place: Span, calls: list[str], depth: int) -> None:
    for number, part in fields(data, *place):
        if number == _FUNC_NAME:
            calls.append(_text(data, part))
        elif number == _FUNC_ATTR:
            for value in named(data, part, _VALUE):
                _read_attribute(data, value, calls, depth + 1)


def _read_objects(data: memoryview, place: Span, graph: MetaGraph) -> None:
    for number, part in fields(data, *place):
        if number == _CONCRETE_FUNCTIONS:
            graph.named_functions.update(_text(data, each) for each in named(data, part, _KEY))
        elif number == _OBJECT:
            for kind, entry in fields(data, *part):
                if kind in {_OBJECT_FUNCTION, _OBJECT_BARE_FUNCTION}:
                    graph.named_functions.update(_text(data, each) for each in named(data, entry, 1))


def _last_text(data: memoryview, place: Span, number: int) -> str:
    found = [_text(data, each) for each in named(data, place, number)]
    return found[-1] if found else ""


def _text(data: memoryview, place: Span) -> str:
    return bytes(data[place[0] : place[1]]).decode("utf-8", "replace")


def _node_of(tensor: str) -> str:
    """`^name` and `name:output:0` are of node `name`."""
    return tensor.removeprefix("^").partition(":")[0]
