"""Parses and validates rows with a fast path for valid lines.

`LineChecker` is the reference and finds all defects of a line. Most lines are valid, and a typed msgspec
decoder recognises those many times as fast; the others go to the checker. msgspec is already a dependency,
validates types while it parses, and does not recurse into values that the type does not have.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from backend.domain.dataset import MAX_SOURCE_CHARACTERS, Defect, LineChecker, Row, RowFormat, are_turns


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    content: str
    role: Literal["system", "user", "assistant"]


class _Chat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: list[_Message]
    source: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple([message.content for message in self.messages])

    @property
    def num_strings(self) -> int:
        """Number of keys and string values, without those of `source`."""
        return 1 + 4 * len(self.messages)

    @property
    def is_in_turns(self) -> bool:
        return are_turns([message.role for message in self.messages])


class _Instruct(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    num_strings: ClassVar[int] = 4
    is_in_turns: ClassVar[bool] = True
    prompt: str
    completion: str
    source: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.prompt, self.completion)


class _Text(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    num_strings: ClassVar[int] = 2
    is_in_turns: ClassVar[bool] = True
    text: str
    source: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,)


_Typed = _Chat | _Instruct | _Text
_DECODERS: dict[RowFormat, msgspec.json.Decoder[_Typed]] = {
    RowFormat.CHAT: msgspec.json.Decoder(_Chat),
    RowFormat.INSTRUCT: msgspec.json.Decoder(_Instruct),
    RowFormat.TEXT: msgspec.json.Decoder(_Text),
}
_encode = msgspec.json.Encoder(order="sorted").encode


class RowReader:
    """Reads the lines of one file in order, with the results of `LineChecker`."""

    def __init__(self) -> None:
        self._checker = LineChecker()

    @property
    def format(self) -> RowFormat | None:
        return self._checker.format

    def read(self, line: int, raw: bytes | None) -> Row | list[Defect]:
        """The row, or the line's defects."""
        row_format = self._checker.format
        if raw is not None and row_format is not None:
            row = _parse_valid(line, raw, row_format)
            if row is not None:
                return row
        return self._checker.check(line, raw)


def _parse_valid(line: int, raw: bytes, row_format: RowFormat) -> Row | None:
    """The row; None if the checker must decide, which may still find the line valid."""
    if raw.endswith(b"\r"):
        return None
    try:
        value = _DECODERS[row_format].decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    texts = value.texts
    source = value.source
    strings, num_strings = texts, value.num_strings
    if source is not msgspec.UNSET:
        if len(source) > MAX_SOURCE_CHARACTERS:
            return None
        strings, num_strings = (*texts, source), num_strings + 2
    if not value.is_in_turns or not _has_each_key_once(raw, strings, num_strings):
        return None
    for text in strings:
        if not text or text.isspace():
            return None
    return Row(line, row_format, texts, _encode(value), None if source is msgspec.UNSET else source)


def _has_each_key_once(raw: bytes, strings: tuple[str, ...], num_strings: int) -> bool:
    """Detect duplicate keys, of which the parser keeps only the last, by counting quotes. Each string of the
    row has two in `raw`, and each quote within a text has one, unless it is escaped as a number. More belong
    to overwritten values.
    """
    quotes = 2 * num_strings
    for text in strings:
        quotes += text.count('"')
    return raw.count(b'"') == quotes and b"\\u0022" not in raw
