"""Response schemas of completions for the OpenAPI document; `backend.api.completions` builds them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from backend.api.schemas.common import Amount


class ResponseModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PromptTokensDetails(ResponseModel):
    """`cached_tokens`: prompt tokens found in the engine's prefix cache. They are charged like others."""

    cached_tokens: int


class UsageView(ResponseModel):
    """`cost`: the charge in dollars as a JSON number, which clients of other gateways read there. It is
    rounded to a double; `loraledger.charge` is exact.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    cost: float


class ShareView(ResponseModel):
    position: int
    ppm: int


class AttributionView(ResponseModel):
    version_id: str
    weight_ppm: int
    shares: list[ShareView]


class ChargedView(ResponseModel):
    """`cumulative`: what the channel was charged so far, this answer included. `salt` opens the receipt's
    hashes; only the payer gets it. `texts`, only with tools: each choice as the model wrote it, tool calls
    included, which is what the receipt commits to.
    """

    channel_id: str
    charge: Amount
    cumulative: Amount
    salt: str
    texts: list[str] | None = None


class BillView(ChargedView):
    """What the answer costs, and its receipt."""

    receipt_id: str
    method: str
    attribution: list[AttributionView]


class PendingBillView(ChargedView):
    """What the answer costs, where its receipt follows: `/v1/receipts/{charge_id}` has it by `receipt_by`
    (unix seconds).
    """

    charge_id: str
    receipt_by: int


class CompletionBase(ResponseModel):
    id: str
    created: int
    model: str
    usage: UsageView
    loraledger: BillView | PendingBillView


class TokenView(ResponseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobView(TokenView):
    top_logprobs: list[TokenView]


class LogprobsView(ResponseModel):
    """One item for each charged token, including the end-of-sequence token."""

    content: list[TokenLogprobView]
    refusal: None


class CalledFunctionView(ResponseModel):
    name: str
    arguments: str


class ToolCallView(ResponseModel):
    id: str
    type: Literal["function"]
    function: CalledFunctionView


class MessageView(ResponseModel):
    """`content` is null if the message has nothing but tool calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCallView] | None = None


class ChatChoiceView(ResponseModel):
    index: int
    message: MessageView
    logprobs: LogprobsView | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletionView(CompletionBase):
    object: Literal["chat.completion"]
    choices: list[ChatChoiceView]
    service_tier: Literal["default", "flex"] | None = None


class TextLogprobsView(ResponseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoiceView(ResponseModel):
    index: int
    text: str
    logprobs: TextLogprobsView | None
    finish_reason: Literal["stop", "length"]


class CompletionView(CompletionBase):
    object: Literal["text_completion"]
    choices: list[TextChoiceView]


class ErrorBody(ResponseModel):
    """`param`: the field at fault. `code` is stable; the keys of `details` depend on it."""

    message: str
    type: str
    param: str | None
    code: str
    details: dict[str, Any] | None = None


class ErrorView(ResponseModel):
    error: ErrorBody
