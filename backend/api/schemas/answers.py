"""Answers as the OpenAPI document describes them; `backend.api.completions` writes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Shown(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PromptTokensDetails(Shown):
    """`cached_tokens` of the prompt were found in the engine's prefix cache; they cost what others do."""

    cached_tokens: int


class UsageView(Shown):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ShareView(Shown):
    position: int
    ppm: int


class AttributionView(Shown):
    version_id: str
    weight_ppm: int
    shares: list[ShareView]


class BillView(Shown):
    """Amounts in micro-units, as decimal strings. `salt` opens the receipt's hashes, to its payer only."""

    receipt_id: str
    channel_id: str
    charge: str
    cumulative: str
    salt: str
    method: str
    attribution: list[AttributionView]


class Answered(Shown):
    id: str
    created: int
    model: str
    usage: UsageView
    loraledger: BillView


class TokenView(Shown):
    token: str
    logprob: float
    bytes: list[int]


class PlaceView(TokenView):
    top_logprobs: list[TokenView]


class LogprobsView(Shown):
    """An item for each token that was charged, the closing one included."""

    content: list[PlaceView]
    refusal: None


class MessageView(Shown):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoiceView(Shown):
    index: int
    message: MessageView
    logprobs: LogprobsView | None
    finish_reason: Literal["stop", "length"]


class ChatCompletionView(Answered):
    object: Literal["chat.completion"]
    choices: list[ChatChoiceView]
    service_tier: Literal["default", "flex"] | None = None


class TextLogprobsView(Shown):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoiceView(Shown):
    index: int
    text: str
    logprobs: TextLogprobsView | None
    finish_reason: Literal["stop", "length"]


class CompletionView(Answered):
    object: Literal["text_completion"]
    choices: list[TextChoiceView]


class ErrorBody(Shown):
    """`param` names the field at fault; `code` is stable, and `details` depend on it."""

    message: str
    type: str
    param: str | None
    code: str
    details: dict[str, Any] | None = None


class ErrorView(Shown):
    error: ErrorBody
