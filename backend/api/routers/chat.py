"""OpenAI-compatible chat and text completions, each with a receipt."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from backend.api.choices import ChatFormat, TextFormat
from backend.api.completions import Completion, CompletionStream, ResponseOptions
from backend.api.deps import AnswersCallerDep, Caller, ServicesDep, get_rate_limits
from backend.api.disconnect import ClientDisconnected, while_connected
from backend.api.idempotency import IdempotentRoute
from backend.api.schemas.answers import ChatCompletionView, CompletionView
from backend.api.schemas.chat import ChatCompletionRequest
from backend.api.schemas.completions import CompletionRequest
from backend.api.schemas.sampling import AnswerFields
from backend.api.services import Services
from backend.domain.errors import InvalidInput
from backend.services.accounts.api_keys import check_model
from backend.services.answers.blend import Part, build_blend
from backend.services.answers.generate import AnswerRequest
from backend.services.channels.admission import Payer
from backend.services.market.catalogue import Model

router = APIRouter(prefix="/v1", tags=["answers"], route_class=IdempotentRoute)

CHUNK = {
    "type": "object",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
    "description": "A chunk as JSON, the last one with the bill; an error object; or `[DONE]`.",
}
CLIENT_CLOSED_REQUEST = 499
"""The client is gone; the status appears in the access log only."""


def answers(view: type[ChatCompletionView | CompletionView]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses: a complete object or a stream of chunks."""
    return {200: {"model": view, "content": {"text/event-stream": {"itemSchema": CHUNK}}}}


@router.post("/chat/completions", response_model=None, responses=answers(ChatCompletionView))
async def create_chat_completion(
    body: ChatCompletionRequest, request: Request, services: ServicesDep, caller: AnswersCallerDep
) -> Response:
    """Create a chat completion. `stream` returns server-sent events. A client that disconnects is charged for
    the tokens generated until then.
    """
    model, blend = await _models(services, caller, body)
    answer_request = AnswerRequest(
        payer=Payer(caller.account, caller.key_id),
        model=model,
        blend=blend,
        message=body.to_generate(services.generate.default_max_tokens),
        body=await request.body(),
        num_choices=body.num_choices,
        seconds=body.seconds,
    )
    options = ResponseOptions(
        format=ChatFormat(has_tools=answer_request.message.tools is not None),
        num_choices=body.num_choices,
        has_logprobs=bool(body.logprobs),
        is_stream=bool(body.stream),
        includes_usage=body.includes_usage,
        service_tier=body.response_tier,
    )
    return await _respond(request, services, caller, answer_request, options)


@router.post("/completions", response_model=None, responses=answers(CompletionView))
async def create_completion(
    body: CompletionRequest, request: Request, services: ServicesDep, caller: AnswersCallerDep
) -> Response:
    """Continue raw text. The model's chat template is not applied."""
    model, blend = await _models(services, caller, body)
    answer_request = AnswerRequest(
        payer=Payer(caller.account, caller.key_id),
        model=model,
        blend=blend,
        message=body.to_generate(services.generate.default_max_tokens),
        body=await request.body(),
        num_choices=body.num_choices,
        seconds=body.seconds,
    )
    options = ResponseOptions(
        format=TextFormat(),
        num_choices=body.num_choices,
        has_logprobs=body.logprobs is not None,
        is_stream=bool(body.stream),
        includes_usage=body.includes_usage,
    )
    return await _respond(request, services, caller, answer_request, options)


async def _model(services: Services, caller: Caller, name: str) -> Model:
    model = await services.generate.model(name, caller.account)
    check_model(caller.models, model)
    return model


async def _models(services: Services, caller: Caller, body: AnswerFields) -> tuple[Model, tuple[Part, ...]]:
    """The requested model, and the parts of its blend if there is one."""
    if not body.blend:
        return await _model(services, caller, body.model), ()
    base = await services.generate.model(body.model, caller.account)
    if not base.is_base:
        raise InvalidInput("With 'loraledger.blend', 'model' must be the base model.", param="model")
    weighted = [(await _model(services, caller, part.model), part.weight) for part in body.blend]
    return base, build_blend(weighted)


async def _respond(
    request: Request,
    services: Services,
    caller: Caller,
    answer_request: AnswerRequest,
    options: ResponseOptions,
) -> Response:
    limits = get_rate_limits(request)
    await limits.check_tokens(caller.rate_limit_scopes)
    try:
        answer = await while_connected(request, services.generate.start(answer_request))
        limits.count_tokens(caller.rate_limit_scopes, answer)
        completion = Completion(answer, answer_request.model.name, options)
        if options.is_stream:
            return CompletionStream(completion)
        return JSONResponse(await while_connected(request, completion.complete()))
    except ClientDisconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
