from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from backend.api.schemas.sampling import (
    AnswerFields,
    ResponseFormat,
    Strict,
    Text,
    contradiction,
)
from inference.protocol import MAX_TOP_LOGPROBS, Generate, JsonSchema, Message

PRIORITIES: dict[str | None, int] = {"flex": -1}
"""Engine priority of service tiers; 0 for all others."""


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    def to_message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class ChatCompletionRequest(AnswerFields):
    """OpenAI's chat completion request, with the supported parameters.

    `service_tier`: `flex` has lower priority than all other requests. `n` choices are charged for the prompt
    once and for the tokens of all choices.
    """

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    service_tier: Literal["auto", "default", "flex"] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _check_pairs(self) -> ChatCompletionRequest:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            reason = "The parameters 'max_tokens' and 'max_completion_tokens' differ"
            raise contradiction("max_tokens", reason)
        if self.top_logprobs is not None and not self.logprobs:
            raise contradiction("top_logprobs", "The parameter 'top_logprobs' requires 'logprobs'")
        return self

    @property
    def response_tier(self) -> str | None:
        """`service_tier` of the response; like OpenAI's, null if the request has none."""
        return "default" if self.service_tier == "auto" else self.service_tier

    def to_generate(self, default_max_tokens: int) -> Generate:
        schema = self.response_format.text if self.response_format else None
        sampling = self._sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens or default_max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            constraint=None if schema is None else JsonSchema(schema),
        )
        messages = tuple(message.to_message() for message in self.messages)
        return Generate("", messages, sampling=sampling, priority=PRIORITIES.get(self.service_tier, 0))
