"""Tool calls in a model's text: the syntaxes of chat templates, prompts for templates without one, the
grammar that binds an answer, and the parser of its calls.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from inference.errors import InvalidRequestError, InvalidToolSchemaError
from inference.protocol import CallDelta, JsonSchema, Message, ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.protocol import Sampling, Tools

_NAME = "([a-zA-Z0-9_-]+)"


class CallSyntax(Struct, frozen=True):
    """Literal texts around a call's name and arguments. `marker` begins a call and is in no other text.
    `separator` is between calls; None where a call is the whole answer, which then has no text and no other
    call.
    """

    marker: str
    before_name: str
    before_arguments: str
    after_arguments: str
    separator: str | None

    def render(self, call: ToolCall) -> str:
        """The call as a model writes it."""
        return (
            f"{self.marker}{self.before_name}{call.name}{self.before_arguments}{call.arguments}"
            f"{self.after_arguments}"
        )


HERMES = CallSyntax("<tool_call>", '\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n")
"""Of Qwen 2.5 and 3, and of the prompts for SmolLM2 and SmolLM3."""
LLAMA = CallSyntax('{"name": "', "", '", "parameters": ', "}", None)
"""Of Llama 3.1 to 3.3."""


class CallGrammar(Struct, frozen=True, tag="tool_calls"):
    """Constraint on an answer with tools. `functions`: name and schema of those that may be called. Without
    `is_required` the answer may be text instead, which matches `text_schema` if there is one.
    """

    syntax: CallSyntax
    functions: tuple[tuple[str, str], ...]
    is_required: bool
    is_parallel: bool
    text_schema: str | None


def call_grammar(tools: Tools, syntax: CallSyntax, sampling: Sampling) -> CallGrammar:
    """The constraint that `tools`, and a schema in `sampling`, put on an answer.

    Raises `InvalidRequestError` for sampling that cannot be combined with tools.
    """
    constraint = sampling.constraint
    if constraint is not None and not isinstance(constraint, JsonSchema):
        raise InvalidRequestError("sampling: with tools, a constraint is a JSON schema")
    if sampling.min_tokens or sampling.ignore_eos:
        raise InvalidRequestError("sampling: min_tokens and ignore_eos cannot be combined with tools")
    if constraint is not None and syntax.separator is None and not tools.is_required:
        raise InvalidRequestError(
            "this model's tool calls are JSON without a marker, so the grammar cannot distinguish them from "
            "a text that is JSON; send either tools or a schema of the text, or require a call"
        )
    text_schema = None if constraint is None else constraint.schema
    allowed = [each for each in tools.functions if tools.only is None or each.name == tools.only]
    functions = tuple((each.name, each.parameters) for each in allowed)
    is_parallel = tools.is_parallel and syntax.separator is not None
    return CallGrammar(syntax, functions, tools.is_required, is_parallel, text_schema)


def function_schemas(tools: Tools) -> list[dict[str, Any]]:
    """The functions as chat templates expect them. Raises `InvalidToolSchemaError`."""
    found = []
    for each in tools.functions:
        try:
            parameters = json.loads(each.parameters)
        except (ValueError, RecursionError) as error:
            raise InvalidToolSchemaError(f"{each.name}#", f"the schema is not JSON: {error}") from error
        function = {"name": each.name, "description": each.description, "parameters": parameters}
        found.append({"type": "function", "function": function})
    return found


def as_plain_chat(messages: Sequence[Message], tools: Tools | None) -> list[Message]:
    """The chat without tools and calls, for templates that have none: the functions stand in the system
    message, calls in the text of the assistant, results in messages of the user. The wording is Qwen's and
    SmolLM3's.
    """
    plain: list[Message] = []
    if tools is not None:
        system = Message("system", _instructions(tools))
        if messages and messages[0].role == "system":
            system = replace(messages[0], content=f"{messages[0].content}\n\n{system.content}")
            messages = messages[1:]
        plain.append(system)
    is_result = False
    for message in messages:
        follows_result, is_result = is_result, message.role == "tool"
        if is_result:
            text = f"<tool_response>\n{message.content}\n</tool_response>"
            if follows_result:
                plain[-1] = replace(plain[-1], content=f"{plain[-1].content}\n{text}")
            else:
                plain.append(Message("user", text))
        else:
            calls = [HERMES.render(call) for call in message.tool_calls]
            content = [message.content] if message.content else []
            plain.append(replace(message, content="\n".join([*content, *calls]), tool_calls=()))
    return plain


def _instructions(tools: Tools) -> str:
    listed = "\n".join(json.dumps(each, ensure_ascii=False) for each in function_schemas(tools))
    call = '{"name": <function-name>, "arguments": <args-json-object>}'
    return (
        "You may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n"
        f"<tools>\n{listed}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within "
        f"<tool_call></tool_call> XML tags:\n<tool_call>\n{call}\n</tool_call>"
    )


class CallParser:
    """Splits an answer, as it grows, into the text before its calls and the calls.

    It relies on the grammar: apart from the text, an answer has only what `CallSyntax` allows. `is_either`:
    it has calls or text, and no text before calls.
    """

    def __init__(self, syntax: CallSyntax, *, is_either: bool = False) -> None:
        self._syntax = syntax
        self._is_either = is_either or syntax.separator is None
        texts = re.escape(syntax.before_name), re.escape(syntax.before_arguments)
        self._header = re.compile(texts[0] + _NAME + texts[1])
        self._rest = ""  # received, but not yet decided
        self._read: Callable[[], str | CallDelta | None] = self._read_text
        self._num_calls = 0
        self._object = _ObjectScanner()

    @property
    def is_complete(self) -> bool:
        """Whether the answer so far ends with a complete call."""
        return self._read == self._read_separator and not self._rest

    def push(self, text: str) -> tuple[str, tuple[CallDelta, ...]]:
        """Add text; returns the text before the calls, and the progress of calls, that are new."""
        self._rest += text
        content, calls = "", list[CallDelta]()
        while (found := self._read()) is not None:
            if isinstance(found, CallDelta):
                calls.append(found)
            else:
                content += found
        return content, tuple(calls)

    def flush(self) -> str:
        """The remaining text of an answer that ended; nothing of a call that was cut off before its name."""
        return self._rest if self._read in {self._read_text, self._read_plain_text} else ""

    # A reader consumes a part of `_rest` and returns what that is, or None if it needs more text.

    def _read_text(self) -> str | None:
        """Holds back what may be the start of the marker, and blanks before it."""
        marker, text = self._syntax.marker, self._rest
        if self._is_either and not (marker.startswith(text) or text.startswith(marker)):
            self._read = self._read_plain_text
            return ""
        before, found, after = text.partition(marker)
        if found:
            self._rest, self._read = after, self._read_header
            return before.rstrip()
        lengths = range(min(len(marker) - 1, len(text)), -1, -1)
        length = next(each for each in lengths if marker.startswith(text[len(text) - each :]))
        certain = text[: len(text) - length].rstrip()
        self._rest = text[len(certain) :]
        return certain or None

    def _read_plain_text(self) -> str | None:
        text, self._rest = self._rest, ""
        return text or None

    def _read_header(self) -> CallDelta | None:
        header = self._header.match(self._rest)
        if header is None:
            return None
        self._rest, self._read = self._rest[header.end() :], self._read_arguments
        self._object = _ObjectScanner()
        self._num_calls += 1
        return CallDelta(self._num_calls - 1, header[1])

    def _read_arguments(self) -> CallDelta | None:
        length = self._object.scan(self._rest)
        arguments, self._rest = self._rest[:length], self._rest[length:]
        if self._object.is_closed:
            self._read = self._read_closing
        return CallDelta(self._num_calls - 1, arguments=arguments) if arguments else None

    def _read_closing(self) -> str | None:
        return self._skip(self._syntax.after_arguments, self._read_separator)

    def _read_separator(self) -> str | None:
        return self._skip(f"{self._syntax.separator or ''}{self._syntax.marker}", self._read_header)

    def _skip(self, text: str, following: Callable[[], str | CallDelta | None]) -> str | None:
        if not self._rest.startswith(text):
            return None
        self._rest, self._read = self._rest[len(text) :], following
        return ""


class _ObjectScanner:
    """Finds the end of a JSON object in text that arrives in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False
        self.is_closed = False

    def scan(self, text: str) -> int:
        """Length of the part of `text` that belongs to the object."""
        for position, character in enumerate(text):
            if self._is_in_string:
                self._scan_string(character)
            elif character == '"':
                self._is_in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_closed = True
                    return position + 1
        return len(text)

    def _scan_string(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._is_in_string = False
