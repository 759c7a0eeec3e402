"""Rows of contributions: formats, validation and canonical bytes.

A contribution is a JSONL file. Each line is an object in one of three formats, and all lines have the same
format: `{"messages": [{"role", "content"}, ...]}`, `{"prompt", "completion"}` or `{"text"}`. An optional
`"source"` names the subject of the row, so that a split for evaluation keeps paraphrases on one side.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from backend.domain.ids import Hash32

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_LINE_BYTES = 1 << 20
MAX_DEPTH = 8
"""Maximum nesting of a line's JSON. The formats need three."""
MAX_SOURCE_CHARACTERS = 512
ROLES = ("system", "user", "assistant")


_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)
"""Brackets and strings. An unterminated string matches too, so that no text is scanned twice."""


class RowFormat(StrEnum):
    CHAT = "chat"
    INSTRUCT = "instruct"
    TEXT = "text"


FIELDS: dict[RowFormat, tuple[str, ...]] = {
    RowFormat.CHAT: ("messages",),
    RowFormat.INSTRUCT: ("prompt", "completion"),
    RowFormat.TEXT: ("text",),
}


FORMATS = "; ".join(f"{kind} ({', '.join(names)})" for kind, names in FIELDS.items())


@dataclass(frozen=True, slots=True)
class Defect:
    """An error in an upload. `line` counts from 1; `field` is a path such as `messages[2].role`."""

    line: int
    code: str
    message: str
    field: str | None = None


class Row(NamedTuple):
    """A valid row. It is a tuple because uploads of gigabytes have many rows."""

    line: int
    format: RowFormat
    texts: tuple[str, ...]
    """Contents, prompt and completion, or text; without roles and source."""
    canonical: bytes
    """JSON with sorted keys and without spaces, in UTF-8, without the final newline."""
    source: str | None = None

    @property
    def hash(self) -> Hash32:
        """Hash of what training reads: roles and texts. Copies have it too that differ in `source`, in spaces
        around texts, in the composition of characters, or in being a prompt with completion and not a chat.
        """
        # The number of texts tells the roles: one is a text, and an odd number begins with a system prompt.
        digest = sha256()
        for text in self.texts:
            content = unicodedata.normalize("NFC", text).strip().encode()
            digest.update(b"%d:" % len(content))
            digest.update(content)
        return Hash32("0x" + digest.hexdigest())

    @property
    def answers(self) -> tuple[str, ...]:
        """The texts that an adapter learns to give: the assistant's contents, the completion, or the text."""
        if self.format is RowFormat.TEXT:
            return self.texts
        has_system_prompt = len(self.texts) % 2
        return self.texts[1 + has_system_prompt :: 2]

    @property
    def num_characters(self) -> int:
        """Length of the texts."""
        return sum(map(len, self.texts))

    @property
    def value(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.canonical)
        return value


def messages_of(row: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """The messages of a chat or instruct row; none for plain text."""
    if "prompt" in row:
        contents = zip(("user", "assistant"), (row["prompt"], row["completion"]), strict=True)
        return [{"role": role, "content": content} for role, content in contents]
    return list(row.get("messages", ()))


def canonical_row(row: Mapping[str, Any]) -> bytes:
    """Canonical JSON of a row. The canonical form of a contribution is its rows, each with a newline."""
    text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def split_lines(stream: Iterable[bytes], max_bytes: int = MAX_LINE_BYTES) -> Iterator[bytes | None]:
    """Split a stream into lines without newline, None for lines above `max_bytes`. Buffers one line."""
    pending = bytearray()
    is_too_long = False
    for chunk in stream:
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = bytes(pending) + lines[0]
            pending.clear()
        for line in lines:
            yield None if is_too_long or len(line) > max_bytes else line
            is_too_long = False
        pending += rest
        if len(pending) > max_bytes:
            is_too_long = True
            pending.clear()
    if pending or is_too_long:
        yield None if is_too_long else bytes(pending)


class LineChecker:
    """Validates the lines of one file in their order."""

    def __init__(self) -> None:
        self.format: RowFormat | None = None
        """Format of the first valid row, which all others must have."""
        self._has_reported_line_ends = False

    def check(self, line: int, raw: bytes | None) -> Row | list[Defect]:
        """The row, or all defects of the line."""
        found = _Findings(line)
        raw = self._without_file_marks(raw, found)
        num_file_defects = len(found.defects)
        value = _parse(raw, found)
        if len(found.defects) > num_file_defects:
            return found.defects
        row_format = _check_row(value, found)
        if row_format is not None and not found.defects:
            self.format = self.format or row_format
            if row_format is not self.format:
                found.add("mixed_formats", f"the first row is {self.format}, this one {row_format}")
        if found.defects or row_format is None:
            return found.defects
        return Row(line, row_format, tuple(found.texts), canonical_row(value), value.get("source"))

    def _without_file_marks(self, raw: bytes | None, found: _Findings) -> bytes | None:
        """Remove a byte order mark, and report it and CR LF line ends once per file."""
        if raw is None:
            return None
        if found.line == 1 and raw.startswith(codecs.BOM_UTF8):
            found.add(
                "byte_order_mark", "the file starts with a byte order mark; save it as UTF-8 without one"
            )
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if raw.endswith(b"\r") and not self._has_reported_line_ends:
            self._has_reported_line_ends = True
            found.add("carriage_return", "the lines end in CR LF; save the file with LF as its line ends")
        return raw


class _Findings:
    def __init__(self, line: int) -> None:
        self.line = line
        self.defects: list[Defect] = []
        self.texts: list[str] = []

    def add(self, code: str, message: str, field: str | None = None) -> None:
        self.defects.append(Defect(self.line, code, message, field))

    def pairs(self, items: list[tuple[str, Any]]) -> dict[str, Any]:
        """`object_pairs_hook` that reports repeated keys."""
        value = dict(items)
        if len(value) < len(items):
            for name, count in Counter(name for name, _ in items).items():
                if count > 1:
                    self.add("duplicate_key", "appears more than once", _printable(name))
        return value

    def number(self, literal: str) -> float:
        """`parse_float` and `parse_constant` that report NaN and infinities, which are not JSON."""
        if not math.isfinite(value := float(literal)):
            self.add("not_finite", f"{literal[:32]} is not a finite number")
        return value


def _parse(raw: bytes | None, found: _Findings) -> Any:
    if raw is None:
        return found.add("line_too_long", f"longer than {MAX_LINE_BYTES} bytes")
    if not raw.strip():
        return found.add("empty_line", "the line is empty")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return found.add("broken_utf8", f"byte {error.start + 1} is not UTF-8")
    return _parse_json(text, found)


def _parse_json(text: str, found: _Findings) -> Any:
    if is_too_deep(text):
        return found.add("too_deep", f"nested more than {MAX_DEPTH} deep")
    number = found.number
    hooks: Any = {"object_pairs_hook": found.pairs, "parse_float": number, "parse_constant": number}
    try:
        return json.loads(text, **hooks)
    except json.JSONDecodeError as error:
        return found.add("malformed_json", f"{error.msg} at character {error.pos + 1}")
    except ValueError as error:  # an integer of thousands of digits
        return found.add("malformed_json", str(error))


def parse_json(text: str) -> Any:
    """The value of untrusted JSON. Errors: `ValueError`, also if it nests deeper than `MAX_DEPTH`."""
    if is_too_deep(text):
        raise ValueError(f"the JSON nests more than {MAX_DEPTH} deep")
    return json.loads(text)


def is_too_deep(text: str) -> bool:
    """Whether JSON nests deeper than `MAX_DEPTH`, in linear time and constant stack.

    Untrusted JSON is asked before it is parsed: the parser recurses in C, and if a library has raised the
    recursion limit, deep nesting overflows the stack and ends the process.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            return True
    return False


def _check_row(row: Any, found: _Findings) -> RowFormat | None:
    if not isinstance(row, dict):
        found.add("not_an_object", f"a row is a JSON object, not {_kind(row)}")
        return None
    present = [kind for kind, names in FIELDS.items() if any(name in row for name in names)]
    if len(present) != 1:
        which = " and ".join(present) or "no format"
        found.add("unknown_format", f"has fields of {which}, not of one out of {FORMATS}")
        return None
    names = FIELDS[present[0]]
    for name in row:
        if name not in {*names, "source"}:
            found.add("unknown_field", f"not a field of format {present[0]}", _printable(name))
    for name in names:
        if name == "messages":
            _check_messages(row[name], found)
        else:
            _check_text(row, name, name, found)
    if "source" in row:
        _check_source(row, found)
    return present[0]


def _check_source(row: Mapping[str, Any], found: _Findings) -> None:
    is_valid = _check_text(row, "source", "source", found, is_text=False)
    if is_valid and len(row["source"]) > MAX_SOURCE_CHARACTERS:
        found.add("too_long", f"longer than {MAX_SOURCE_CHARACTERS} characters", "source")


def _check_messages(messages: Any, found: _Findings) -> None:
    if not isinstance(messages, list):
        found.add("wrong_type", f"must be a list, not {_kind(messages)}", "messages")
        return
    before = len(found.defects)
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]", found)
    if len(found.defects) == before:
        _check_turns([message["role"] for message in messages], found)


def _check_message(message: Any, path: str, found: _Findings) -> None:
    if not isinstance(message, dict):
        found.add("wrong_type", f"must be an object, not {_kind(message)}", path)
        return
    for name in message:
        if name not in {"role", "content"}:
            found.add("unknown_field", "a message has a role and a content", f"{path}.{_printable(name)}")
    if _check_text(message, "role", f"{path}.role", found, is_text=False) and message["role"] not in ROLES:
        found.add("unknown_role", f"must be one of {', '.join(ROLES)}", f"{path}.role")
    _check_text(message, "content", f"{path}.content", found)


def are_turns(roles: list[str]) -> bool:
    """Whether the roles are `[system,] user, assistant, ...` and end with assistant."""
    turns = roles[1:] if roles[:1] == ["system"] else roles
    return bool(turns) and turns == ["user", "assistant"] * (len(turns) // 2)


def _check_turns(roles: list[str], found: _Findings) -> None:
    if not are_turns(roles):
        found.add("wrong_turns", "must be [system,] user, assistant, ... and end with assistant", "messages")


def _check_text(
    row: Mapping[str, Any], name: str, path: str, found: _Findings, *, is_text: bool = True
) -> bool:
    """Whether the field is a text that is not blank. Defects go to `found`."""
    value = row.get(name)
    if name not in row:
        found.add("missing_field", f"{name} is missing", path)
    elif not isinstance(value, str):
        found.add("wrong_type", f"must be a string, not {_kind(value)}", path)
    elif not value.strip():
        found.add("empty", "must not be empty or blank", path)
    elif not _is_unicode(value):
        found.add("broken_unicode", "has half of a surrogate pair, which UTF-8 cannot encode", path)
    else:
        if is_text:
            found.texts.append(value)
        return True
    return False


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    return _KINDS[type(value)]


def _printable(name: str) -> str:
    """An untrusted name, printable and truncated."""
    return ascii(name)[1:-1][:64]


_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}
