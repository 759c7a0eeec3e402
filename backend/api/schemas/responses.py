"""Requests of OpenAI's Responses API, without the parameters that need stored responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from backend.api.schemas.common import Items
from backend.api.schemas.sampling import (
    PRIORITIES,
    Empty,
    Metadata,
    ModelFields,
    ServiceTier,
    Strict,
    Text,
    response_tier,
    schema_text,
    unsupported,
)
from backend.api.schemas.tools import (
    Arguments,
    CallId,
    FunctionDefinition,
    FunctionName,
    MaxTools,
    OpenCalls,
    ToolMode,
    build_tools,
)
from inference.protocol import Generate, JsonSchema, Message, ReasoningEffort, ToolCall, Tools

ItemId = Annotated[str, Field(max_length=128)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]

NOT_KEPT: dict[str, tuple[tuple[Any, ...], str]] = {
    "background": ((None, False), "wait for the response, or stream it"),
    "conversation": ((None,), "send the whole conversation in 'input'"),
    "include": ((None, []), "omit it"),
    "previous_response_id": ((None,), "send the whole conversation in 'input'"),
    "prompt": ((None,), "send its text in 'instructions'"),
    "store": ((None, False), "send false, or omit it: receipts are kept, and no texts"),
    "truncation": ((None, "disabled"), "shorten 'input' to fit the model's context"),
}
"""Parameters with which OpenAI's API refers to what it stores or decides: the values that are accepted, as
they change nothing, and what to do instead.
"""
KINDS = ("message", "function_call", "function_call_output")


class ContentPart(Strict):
    """OpenAI's own messages have `annotations` and `logprobs`, which must be empty."""

    type: Literal["input_text", "output_text"]
    text: Text
    annotations: Empty = None
    logprobs: Empty = None


def _shape(value: Any) -> str:
    """The tag of a value that is a text or a list; errors then concern the one that was sent."""
    return "list" if isinstance(value, list) else "text"


TextOrParts = Annotated[
    Annotated[Text, Tag("text")] | Annotated[Items[ContentPart], Tag("list")], Discriminator(_shape)
]


def _text(content: str | list[ContentPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


class MessageItem(Strict):
    """OpenAI's own messages have `phase`, which must be empty."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: TextOrParts
    id: ItemId | None = None
    status: ItemStatus | None = None
    phase: Empty = None

    def to_message(self) -> Message:
        return Message("system" if self.role == "developer" else self.role, _text(self.content))


class CallItem(Strict):
    """OpenAI's own calls have `async`, `caller` and `namespace`, which must be empty."""

    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: Arguments
    id: ItemId | None = None
    status: ItemStatus | None = None
    is_async: Annotated[Empty, Field(alias="async")] = None
    caller: Empty = None
    namespace: Empty = None


class ResultItem(Strict):
    type: Literal["function_call_output"]
    call_id: CallId
    output: TextOrParts
    id: ItemId | None = None
    status: ItemStatus | None = None

    def to_message(self, function: str) -> Message:
        return Message("tool", _text(self.output), name=function)


def _kind(item: Any) -> str:
    """The tag of an input item; a message may omit it."""
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "message")
    return kind if kind in KINDS else "message"


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")],
    Discriminator(_kind),
]


class TextFormat(Strict):
    """`strict` has no effect: the text always matches the schema, or the schema is rejected."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: Annotated[str, Field(max_length=4096)] | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None

    @property
    def schema_text(self) -> str | None:
        if self.type == "text":
            return None
        schema = {"type": "object"} if self.type == "json_object" else self.json_schema or {}
        return schema_text(schema, "text.format.schema")


class TextOptions(Strict):
    """OpenAI's responses have `verbosity`, which must be empty."""

    format: TextFormat | None = None
    verbosity: Empty = None


class Reasoning(Strict):
    """OpenAI's responses have the other fields, which must be empty."""

    effort: ReasoningEffort | None = None
    context: Empty = None
    generate_summary: Empty = None
    mode: Empty = None
    summary: Empty = None


class FunctionTool(FunctionDefinition):
    type: Literal["function"]


class NamedTool(Strict):
    type: Literal["function"]
    name: FunctionName


class ResponsesRequest(ModelFields):
    """OpenAI's response request, with the supported parameters. `input`: a text, or the whole conversation as
    messages, function calls and their outputs. `reasoning`: only for models whose chat template has it.
    """

    input: Annotated[
        Annotated[Text, Field(min_length=1), Tag("text")]
        | Annotated[Items[InputItem], Field(min_length=1, max_length=1024), Tag("list")],
        Discriminator(_shape),
    ]
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    text: TextOptions | None = None
    tools: Annotated[Items[FunctionTool], MaxTools] | None = None
    tool_choice: ToolMode | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    service_tier: ServiceTier = None
    metadata: Metadata = None
    background: Literal[False] | None = None
    conversation: None = None
    include: Annotated[Items[str], Field(max_length=0)] | None = None
    previous_response_id: None = None
    prompt: None = None
    store: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_supported(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        for name, (accepted, remedy) in NOT_KEPT.items():
            if body.get(name) not in accepted:
                reason = (
                    f"The parameter '{name}' is not supported, because this API keeps no responses: {remedy}"
                )
                raise unsupported(name, reason)
        for index, tool in enumerate(_listed(body, "tools")):
            if (kind := _type_of(tool, "function")) != "function":
                reason = f"Tools of the type '{kind}' are not supported: offer a function that does the same"
                raise unsupported(f"tools.{index}.type", reason)
        for index, item in enumerate(_listed(body, "input")):
            if (kind := _type_of(item, "message")) not in KINDS:
                reason = f"Input items of the type '{kind}' are not supported: leave them out"
                raise unsupported(f"input.{index}.type", reason)
        return body

    @model_validator(mode="after")
    def _check_pairs(self) -> ResponsesRequest:
        self._tools()
        self._messages()
        self._text_schema()
        return self

    @property
    def num_choices(self) -> int:
        return 1

    def to_generate(self, default_max_tokens: int) -> Generate:
        schema = self._text_schema()
        sampling = self._sampling(
            max_tokens=self.max_output_tokens or default_max_tokens,
            constraint=None if schema is None else JsonSchema(schema),
        )
        return Generate(
            "",
            self._messages(),
            sampling=sampling,
            priority=PRIORITIES.get(self.service_tier, 0),
            tools=self._tools(),
            reasoning_effort=self.reasoning.effort if self.reasoning else None,
        )

    def echo(self) -> dict[str, Any]:
        """Parameters that the response repeats, with their defaults."""
        shown = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {
            "background": False,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": self.reasoning.effort if self.reasoning else None, "summary": None},
            "service_tier": response_tier(self.service_tier) or "default",
            "store": False,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "text": {"format": {"type": "text"}} | shown.get("text", {}),
            "tool_choice": shown.get("tool_choice", "auto"),
            "tools": [{"parameters": None, "strict": False} | tool for tool in shown.get("tools", [])],
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "truncation": "disabled",
            "user": self.user,
        }

    def _text_schema(self) -> str | None:
        return self.text.format.schema_text if self.text and self.text.format else None

    def _tools(self) -> Tools | None:
        functions = [(f"tools.{index}", tool) for index, tool in enumerate(self.tools or ())]
        chosen = self.tool_choice
        mode, only = (None, chosen.name) if isinstance(chosen, NamedTool) else (chosen, None)
        return build_tools(functions, mode, only, is_parallel=self.parallel_tool_calls)

    def _messages(self) -> tuple[Message, ...]:
        messages = [] if self.instructions is None else [Message("system", self.instructions)]
        if isinstance(self.input, str):
            return (*messages, Message("user", self.input))
        calls = OpenCalls()
        for index, item in enumerate(self.input):
            if isinstance(item, MessageItem):
                messages.append(item.to_message())
            elif isinstance(item, ResultItem):
                function = calls.close(item.call_id, f"input.{index}.call_id")
                messages.append(item.to_message(function))
            else:
                calls.add(item.call_id, item.name, f"input.{index}.call_id")
                call = ToolCall(item.name, item.arguments)
                is_same = bool(messages) and messages[-1].role == "assistant"
                before = messages.pop() if is_same else Message("assistant", "")
                messages.append(Message("assistant", before.content, (*before.tool_calls, call)))
        return tuple(messages)


def _listed(body: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Objects of a list that has not been validated."""
    found = body.get(name)
    return [each if isinstance(each, dict) else {} for each in found] if isinstance(found, list) else []


def _type_of(item: dict[str, Any], default: str) -> str:
    """The type of an object that has not been validated, shortened for an error."""
    return str(item.get("type", default))[:64]
