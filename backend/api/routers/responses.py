"""OpenAI's Responses API without storage: every request has the whole conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from backend.api.answering import answer_request, answers, respond
from backend.api.deps import AnswersCallerDep, ServicesDep
from backend.api.idempotency import IdempotentRoute
from backend.api.responses import ResponseRendering
from backend.api.schemas.responses import ResponsesRequest
from backend.api.schemas.responses_view import ResponseView
from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from backend.services.answers.answer import Answer

router = APIRouter(prefix="/v1", tags=["answers"], route_class=IdempotentRoute)

EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["event", "data"],
    "description": "An event of OpenAI's Responses API as JSON; the last one has the response with the bill.",
}
PARAMS = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""Names of this endpoint for parameters that chat completions have too."""


@router.post("/responses", response_model=None, responses=answers(ResponseView, EVENT))
async def create_response(
    body: ResponsesRequest, request: Request, services: ServicesDep, caller: AnswersCallerDep
) -> Response:
    """Create a response. Nothing is kept but the receipt: parameters that refer to an earlier response, or
    ask to store this one, are rejected. `stream` returns OpenAI's events.
    """
    asked = await answer_request(request, services, caller, body, "resp_")

    def render(answer: Answer, model: str) -> ResponseRendering:
        return ResponseRendering(answer, model, body.echo())

    try:
        return await respond(request, services, caller, asked, render, is_stream=bool(body.stream))
    except InvalidInput as error:
        error.param = PARAMS.get(error.param or "", error.param)
        raise
