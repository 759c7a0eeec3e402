from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from backend.api.schemas.common import Items
from backend.api.schemas.sampling import (
    PRIORITIES,
    AnswerFields,
    Empty,
    Metadata,
    ResponseFormat,
    ServiceTier,
    Strict,
    Text,
    contradiction,
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
from inference.protocol import (
    MAX_TOP_LOGPROBS,
    Generate,
    JsonSchema,
    Message,
    ReasoningEffort,
    ToolCall,
    Tools,
)


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class CalledFunction(Strict):
    name: FunctionName
    arguments: Arguments


class ChatToolCall(Strict):
    id: CallId
    type: Literal["function"]
    function: CalledFunction

    def to_call(self) -> ToolCall:
        return ToolCall(self.function.name, self.function.arguments)


AuthorName = Annotated[str, Field(max_length=64, pattern=r"^[^\s<|\\/>]+$")]
"""As OpenAI's API restricts it."""


class ChatMessage(Strict):
    """`tool_calls` only with role `assistant`, `tool_call_id` only with role `tool`. `name`: the author. The
    model sees it only if its chat template renders it, which few do. With role `tool` it is the function that
    was called. OpenAI's own messages have the other fields, which must be empty.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: Annotated[Items[ChatToolCall], Field(max_length=128)] | None = None
    tool_call_id: Annotated[CallId | None, Field(validate_default=True)] = None
    content: Annotated[Text | Items[TextPart] | None, Field(validate_default=True)] = None
    name: AuthorName | None = None
    annotations: Empty = None
    audio: Empty = None
    function_call: Empty = None
    refusal: Empty = None

    @field_validator("tool_calls")
    @classmethod
    def _check_calls(
        cls, calls: list[ChatToolCall] | None, info: ValidationInfo
    ) -> list[ChatToolCall] | None:
        if calls and info.data.get("role", "assistant") != "assistant":
            raise ValueError("only messages of the role 'assistant' have it")
        return calls

    @field_validator("tool_call_id")
    @classmethod
    def _check_call_id(cls, call_id: str | None, info: ValidationInfo) -> str | None:
        role = info.data.get("role")
        if role is not None and (role == "tool") != (call_id is not None):
            raise ValueError("messages of the role 'tool' have it, and no others")
        return call_id

    @field_validator("content")
    @classmethod
    def _check_content(
        cls, content: str | list[TextPart] | None, info: ValidationInfo
    ) -> str | list[TextPart] | None:
        if content is None and not info.data.get("tool_calls", True):
            raise ValueError("a message without tool calls has a text, or a list of parts")
        return content

    @property
    def text(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


class NamedFunction(Strict):
    name: FunctionName


class NamedTool(Strict):
    type: Literal["function"]
    function: NamedFunction


class ChatTool(Strict):
    type: Literal["function"]
    function: FunctionDefinition


class ChatCompletionRequest(AnswerFields):
    """OpenAI's chat completion request, with the supported parameters.

    `service_tier`: `flex` has lower priority than all other requests. `n` choices are charged for the prompt
    once and for the tokens of all choices. `reasoning_effort`: only for models whose chat template has it.
    """

    messages: Annotated[Items[ChatMessage], Field(min_length=1, max_length=1024)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[Items[ChatTool], MaxTools] | None = None
    tool_choice: ToolMode | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: ReasoningEffort | None = None
    service_tier: ServiceTier = None
    metadata: Metadata = None

    @model_validator(mode="after")
    def _check_pairs(self) -> ChatCompletionRequest:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            reason = "The parameters 'max_tokens' and 'max_completion_tokens' differ"
            raise contradiction("max_tokens", reason)
        if self.top_logprobs is not None and not self.logprobs:
            raise contradiction("top_logprobs", "The parameter 'top_logprobs' requires 'logprobs'")
        self._tools()
        self._messages()
        return self

    def to_generate(self, default_max_tokens: int) -> Generate:
        schema = self.response_format.text if self.response_format else None
        sampling = self._sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens or default_max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            constraint=None if schema is None else JsonSchema(schema),
        )
        return Generate(
            "",
            self._messages(),
            sampling=sampling,
            priority=PRIORITIES.get(self.service_tier, 0),
            tools=self._tools(),
            reasoning_effort=self.reasoning_effort,
        )

    def _tools(self) -> Tools | None:
        functions = [(f"tools.{i}.function", tool.function) for i, tool in enumerate(self.tools or ())]
        chosen = self.tool_choice
        mode, only = (None, chosen.function.name) if isinstance(chosen, NamedTool) else (chosen, None)
        return build_tools(functions, mode, only, is_parallel=self.parallel_tool_calls)

    def _messages(self) -> tuple[Message, ...]:
        messages, calls = [], OpenCalls()
        for index, message in enumerate(self.messages):
            if message.tool_call_id is not None:
                name = calls.close(message.tool_call_id, f"messages.{index}.tool_call_id")
                if message.name not in {None, name}:
                    path = f"messages.{index}.name"
                    reason = f"The parameter '{path}' is '{message.name}', but the call is of '{name}'"
                    raise contradiction(path, reason)
                messages.append(Message("tool", message.text, name=name))
                continue
            if message.role == "assistant":
                calls = OpenCalls()
            for call in message.tool_calls or ():
                calls.add(call.id, call.function.name, f"messages.{index}.tool_calls")
            role = "system" if message.role == "developer" else message.role
            made = tuple(call.to_call() for call in message.tool_calls or ())
            messages.append(Message(role, message.text, made, message.name))
        return tuple(messages)
