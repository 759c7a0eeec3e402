"""Response schemas of the Responses API for the OpenAPI document; `backend.api.responses` builds them."""

from __future__ import annotations

from typing import Any, Literal

from backend.api.schemas.answers import BillView, PendingBillView, ResponseModel

Status = Literal["in_progress", "completed", "incomplete"]


class OutputTextView(ResponseModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]


class MessageItemView(ResponseModel):
    id: str
    type: Literal["message"]
    status: Status
    role: Literal["assistant"]
    content: list[OutputTextView]


class CallItemView(ResponseModel):
    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str
    name: str
    arguments: str


class IncompleteView(ResponseModel):
    reason: Literal["max_output_tokens", "deadline"]


class InputTokensView(ResponseModel):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensView(ResponseModel):
    reasoning_tokens: int


class ResponseUsageView(ResponseModel):
    """`cost`: the charge in dollars as a JSON number, rounded to a double; `loraledger.charge` is exact."""

    input_tokens: int
    input_tokens_details: InputTokensView
    output_tokens: int
    output_tokens_details: OutputTokensView
    total_tokens: int
    cost: float


class ReasoningView(ResponseModel):
    effort: str | None
    summary: None


class ResponseView(ResponseModel):
    """OpenAI's response object. Parameters of the request are repeated, with their defaults."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Status
    error: None
    incomplete_details: IncompleteView | None
    model: str
    output: list[MessageItemView | CallItemView]
    background: Literal[False]
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: ReasoningView
    service_tier: Literal["default", "flex"]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float
    truncation: Literal["disabled"]
    user: str | None
    usage: ResponseUsageView
    loraledger: BillView | PendingBillView
