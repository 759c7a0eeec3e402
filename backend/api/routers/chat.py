"""OpenAI-compatible answers, to chats and to raw text, each with its receipt."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from backend.api.choices import ChatShape, TextShape
from backend.api.completions import Completion, CompletionStream, Wanted
from backend.api.deps import AnswerableDep, Caller, ServicesDep, get_rate_limits
from backend.api.disconnect import ClientLeft, while_connected
from backend.api.idempotency import IdempotentRoute
from backend.api.schemas.answers import ChatCompletionView, CompletionView
from backend.api.schemas.chat import ChatCompletionRequest
from backend.api.schemas.completions import CompletionRequest
from backend.api.schemas.sampling import AnswerFields
from backend.api.services import Services
from backend.domain.errors import InvalidInput
from backend.services.accounts.api_keys import check_model
from backend.services.answers.blend import Part, blended
from backend.services.answers.generate import AnswerRequest
from backend.services.channels.admission import Payer
from backend.services.market.catalogue import Model

router = APIRouter(prefix="/v1", tags=["answers"], route_class=IdempotentRoute)

CHUNK = {
    "type": "object",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
    "description": "OpenAI's chunk as JSON, the bill in the last one; an error if it broke off; or `[DONE]`.",
}
CLIENT_CLOSED_REQUEST = 499
"""Nobody reads it but the access log."""


def answers(view: type[ChatCompletionView | CompletionView]) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: whole, or in chunks."""
    return {200: {"model": view, "content": {"text/event-stream": {"itemSchema": CHUNK}}}}


@router.post("/chat/completions", response_model=None, responses=answers(ChatCompletionView))
async def create_chat_completion(
    body: ChatCompletionRequest, request: Request, services: ServicesDep, caller: AnswerableDep
) -> Response:
    """Answers a chat. With `stream`, as server-sent events; who leaves pays for what was written."""
    model, blend = await _models(services, caller, body)
    asked = AnswerRequest(
        payer=Payer(caller.account, caller.key_id),
        model=model,
        blend=blend,
        message=body.to_generate(services.generate.default_max_tokens),
        body=await request.body(),
        num_choices=body.num_choices,
        seconds=body.seconds,
    )
    wanted = Wanted(
        shape=ChatShape(),
        num_choices=body.num_choices,
        has_logprobs=bool(body.logprobs),
        is_stream=bool(body.stream),
        includes_usage=body.includes_usage,
        service_tier=body.served_tier,
    )
    return await _answered(request, services, caller, asked, wanted)


@router.post("/completions", response_model=None, responses=answers(CompletionView))
async def create_completion(
    body: CompletionRequest, request: Request, services: ServicesDep, caller: AnswerableDep
) -> Response:
    """Continues raw text: the model's chat template is not applied."""
    model, blend = await _models(services, caller, body)
    asked = AnswerRequest(
        payer=Payer(caller.account, caller.key_id),
        model=model,
        blend=blend,
        message=body.to_generate(services.generate.default_max_tokens),
        body=await request.body(),
        num_choices=body.num_choices,
        seconds=body.seconds,
    )
    wanted = Wanted(
        shape=TextShape(),
        num_choices=body.num_choices,
        has_logprobs=body.logprobs is not None,
        is_stream=bool(body.stream),
        includes_usage=body.includes_usage,
    )
    return await _answered(request, services, caller, asked, wanted)


async def _model(services: Services, caller: Caller, name: str) -> Model:
    model = await services.generate.model(name, caller.account)
    check_model(caller.models, model)
    return model


async def _models(services: Services, caller: Caller, body: AnswerFields) -> tuple[Model, tuple[Part, ...]]:
    """The model that is asked, and what is blended into it."""
    if not body.blend:
        return await _model(services, caller, body.model), ()
    base = await services.generate.model(body.model, caller.account)
    if not base.is_base:
        raise InvalidInput("The adapters of a blend are in it; 'model' is the base model.", param="model")
    weighted = [(await _model(services, caller, part.model), part.weight) for part in body.blend]
    return base, blended(weighted)


async def _answered(
    request: Request, services: Services, caller: Caller, asked: AnswerRequest, wanted: Wanted
) -> Response:
    limits = get_rate_limits(request)
    await limits.check_tokens(caller.scopes)
    try:
        answer = await while_connected(request, services.generate.start(asked))
        limits.count_tokens(caller.scopes, answer)
        completion = Completion(answer, asked.model.name, wanted)
        if wanted.is_stream:
            return CompletionStream(completion)
        return JSONResponse(await while_connected(request, completion.whole()))
    except ClientLeft:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
