"""The one file of a multipart form, from a body that is already bounded; nothing is written to disk."""

from __future__ import annotations

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from windlass_server.errors import Code, ServingError

_MAX_PARTS = 32


def only_file(body: bytes, content_type: bytes) -> bytes:
    """The content of the form's only file. Raises `ServingError` when there is none, or several."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise ServingError(Code.INVALID_ARGUMENT, "the multipart form's Content-Type has no boundary")
    parts = _Parts()
    parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
    try:
        parser.write(body)
        parser.finalize()
    except MultipartParseError as error:
        raise ServingError(Code.INVALID_ARGUMENT, f"the multipart form is broken: {error}") from error
    if not parts.ended:
        raise ServingError(Code.INVALID_ARGUMENT, "the multipart form ends too early")
    if len(parts.files) != 1:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"the form has {len(parts.files)} files; send one image, as in: curl -F image=@cat.jpg …",
        )
    return bytes(parts.files[0])


class _Parts:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.files: list[bytearray] = []
        self.ended = False
        self._count = 0
        self._name = bytearray()
        self._value = bytearray()
        self._current: bytearray | None = None

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._count += 1
        if self._count > _MAX_PARTS:
            raise ServingError(Code.INVALID_ARGUMENT, f"the multipart form has more than {_MAX_PARTS} parts")
        self._current = None
        self._name.clear()
        self._value.clear()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            if b"filename" in options:
                self._current = bytearray()
                self.files.append(self._current)
        self._name.clear()
        self._value.clear()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._current is not None:
            self._current += data[start:end]

    def _end(self) -> None:
        self.ended = True
