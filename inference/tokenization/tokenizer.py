"""The model's tokenizer and chat template."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from inference.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    ModelNotFoundError,
    UnsupportedReasoningError,
)
from inference.protocol import Function, Message, ToolCall, Tools
from inference.tokenization.load import load_tokenizer
from inference.tool_calls import HERMES, LLAMA, CallSyntax, as_plain_chat, function_schemas

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inference.protocol import EmbedItem, ReasoningEffort

MAX_CHARS_PER_TOKEN = 32
"""On average over a prompt; texts that are longer for their tokens are refused."""
_PROBE_CALL = ToolCall("probe_function", '{"probe_argument": 1}')
_PROBE_TOOLS = Tools((Function("probe_function", "{}", "probe description"),))
_PROBE_CHAT = (
    Message("user", "probe question"),
    Message("assistant", "", tool_calls=(_PROBE_CALL,)),
    Message("tool", "probe result", name="probe_function"),
)


class ChatTokenizer:
    """Renders chats to token ids and token ids to text."""

    def __init__(self, folder: Path) -> None:
        """Raises `ModelNotFoundError` when the folder holds no tokenizer."""
        try:
            self._tokenizer: Any = load_tokenizer(folder)
        except (OSError, ValueError) as error:
            raise ModelNotFoundError(f"{folder} holds no tokenizer: {error}") from error

        # The underlying object of the tokenizers library is stateless, so several threads may use it.
        self._backend: Any = self._tokenizer.backend_tokenizer

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The end-of-sequence token; empty if the tokenizer has none."""
        token_id = cast("int | None", self._tokenizer.eos_token_id)
        return frozenset() if token_id is None else frozenset({token_id})

    def to_json(self) -> str:
        """The content of a `tokenizer.json`."""
        return cast("str", self._backend.to_str())

    @cached_property
    def call_syntax(self) -> CallSyntax:
        """Syntax of tool calls in this model's answers: that of its template, or `HERMES`."""
        return self._template_syntax or HERMES

    @cached_property
    def _template_syntax(self) -> CallSyntax | None:
        """Syntax of the template's tool calls. None unless it renders functions, calls and results, and calls
        in a syntax that we know; `as_plain_chat` then takes its place.
        """
        try:
            text = self._render(_PROBE_CHAT, _PROBE_TOOLS)
        except InvalidRequestError:
            return None
        if "probe description" not in text or "probe result" not in text:
            return None
        return next((syntax for syntax in (HERMES, LLAMA) if syntax.render(_PROBE_CALL) in text), None)

    def encode_prompt(
        self,
        messages: Sequence[Message],
        prompt: str | None,
        tools: Tools | None = None,
        reasoning_effort: ReasoningEffort | None = None,
        max_context: int | None = None,
    ) -> list[int]:
        """Token ids of a chat, ready for the assistant's turn, or of a raw prompt.

        Raises `InvalidRequestError` unless exactly one is given, or if the template refuses the chat;
        `UnsupportedReasoningError`; `ContextLengthExceededError` for a text that is far too long for
        `max_context` tokens, before it is encoded.
        """
        if (prompt is None) == (not messages):
            raise InvalidRequestError("give either messages or a prompt")
        if prompt is not None:
            if tools is not None or reasoning_effort is not None:
                raise InvalidRequestError("tools and a reasoning effort need messages, not a prompt")
            text = prompt
        else:
            text = self._render_chat(messages, tools, reasoning_effort)
        if max_context is not None and len(text) > max_context * MAX_CHARS_PER_TOKEN:
            raise ContextLengthExceededError(-(-len(text) // MAX_CHARS_PER_TOKEN), max_context)
        token_ids = self._encode(text, is_start=prompt is not None)
        if not token_ids:
            raise InvalidRequestError("the prompt is empty")
        return token_ids

    def encode_item(self, item: EmbedItem) -> tuple[list[int], list[int]]:
        """Token ids of prompt and answer, as in generation: a completed turn ends with EOS."""
        prompt = self.encode_prompt(item.messages, item.prompt)
        if item.completion is None:
            return prompt, []
        return prompt, [*self._encode(item.completion, is_start=False), *self.eos_token_ids]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids`, without special tokens."""
        return cast("str", self._backend.decode(list(token_ids), skip_special_tokens=True))

    def _render_chat(
        self, messages: Sequence[Message], tools: Tools | None, reasoning_effort: ReasoningEffort | None
    ) -> str:
        has_calls = tools is not None or any(each.tool_calls or each.role == "tool" for each in messages)
        if has_calls and self._template_syntax is None:
            messages, tools = as_plain_chat(messages, tools), None
        options = self._reasoning(reasoning_effort)
        return self._render(messages, tools, **options)

    def _reasoning(self, effort: ReasoningEffort | None) -> dict[str, Any]:
        """The template's variables for a reasoning effort. Raises `UnsupportedReasoningError`."""
        template = str(self._tokenizer.chat_template)
        if effort is None:
            return {}
        if "reasoning_effort" in template:
            return {"reasoning_effort": effort}
        if "enable_thinking" in template:
            return {"enable_thinking": effort not in {"none", "minimal"}}
        if effort == "none":
            return {}
        raise UnsupportedReasoningError

    def _render(self, messages: Sequence[Message], tools: Tools | None, **options: Any) -> str:
        from jinja2 import TemplateError

        functions = None if tools is None else function_schemas(tools)
        try:
            rendered = self._tokenizer.apply_chat_template(
                [_turn(message) for message in messages],
                tools=functions,
                tokenize=False,
                add_generation_prompt=True,
                **options,
            )
        except (TemplateError, ValueError, TypeError, RecursionError) as error:
            raise InvalidRequestError(f"the chat template refuses these messages: {error}") from error
        return cast("str", rendered)

    def _encode(self, text: str, *, is_start: bool) -> list[int]:
        # `encode_batch_fast` releases the GIL, so that the engine's thread keeps running; `encode` holds it.
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=is_start)
        return cast("list[int]", encoding.ids)


def _turn(message: Message) -> dict[str, Any]:
    """The message as chat templates expect it. Raises `ValueError` for arguments that are not JSON."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
            for call in message.tool_calls
        ]
    return turn
