"""OpenAI-compatible chat and text completions, each with a receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from backend.api.answering import answer_request, answers, respond
from backend.api.choices import ChatFormat, TextFormat
from backend.api.completions import Completion, ResponseOptions
from backend.api.deps import AnswersCallerDep, ServicesDep
from backend.api.idempotency import IdempotentRoute
from backend.api.schemas.answers import ChatCompletionView, CompletionView
from backend.api.schemas.chat import ChatCompletionRequest
from backend.api.schemas.completions import CompletionRequest
from backend.api.schemas.sampling import response_tier

if TYPE_CHECKING:
    from backend.services.answers.answer import Answer

router = APIRouter(prefix="/v1", tags=["answers"], route_class=IdempotentRoute)


@router.post("/chat/completions", response_model=None, responses=answers(ChatCompletionView))
async def create_chat_completion(
    body: ChatCompletionRequest, request: Request, services: ServicesDep, caller: AnswersCallerDep
) -> Response:
    """Create a chat completion. `stream` returns server-sent events. A client that disconnects is charged for
    the tokens generated until then.
    """
    asked = await answer_request(request, services, caller, body, "chatcmpl-")
    options = ResponseOptions(
        format=ChatFormat(has_tools=asked.message.tools is not None),
        num_choices=body.num_choices,
        has_logprobs=bool(body.logprobs),
        includes_usage=body.includes_usage,
        service_tier=response_tier(body.service_tier),
    )

    def render(answer: Answer, model: str) -> Completion:
        return Completion(answer, model, options)

    return await respond(request, services, caller, asked, render, is_stream=bool(body.stream))


@router.post("/completions", response_model=None, responses=answers(CompletionView))
async def create_completion(
    body: CompletionRequest, request: Request, services: ServicesDep, caller: AnswersCallerDep
) -> Response:
    """Continue raw text. The model's chat template is not applied."""
    asked = await answer_request(request, services, caller, body, "cmpl-")
    options = ResponseOptions(
        format=TextFormat(),
        num_choices=body.num_choices,
        has_logprobs=body.logprobs is not None,
        includes_usage=body.includes_usage,
    )

    def render(answer: Answer, model: str) -> Completion:
        return Completion(answer, model, options)

    return await respond(request, services, caller, asked, render, is_stream=bool(body.stream))
