"""Answers of all endpoints: finds the model, starts the answer within the rate limits, and sends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from backend.api.completions import CompletionStream
from backend.api.deps import get_rate_limits
from backend.api.disconnect import ClientDisconnected, while_connected
from backend.domain.errors import InvalidInput
from backend.services.accounts.api_keys import check_model
from backend.services.answers.blend import Part, build_blend
from backend.services.answers.request import AnswerRequest
from backend.services.channels.admission import Payer

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import Request

    from backend.api.completions import Rendering
    from backend.api.deps import Caller
    from backend.api.schemas.sampling import ModelFields
    from backend.api.services import Services
    from backend.services.answers.answer import Answer
    from backend.services.market.catalogue import Model

CHUNK = {
    "type": "object",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
    "description": "A chunk as JSON, the last one with the bill; an error object; or `[DONE]`.",
}
CLIENT_CLOSED_REQUEST = 499
"""The client is gone; the status appears in the access log only."""


def answers(view: type[Any], chunk: dict[str, Any] = CHUNK) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses: a complete object or a stream of chunks."""
    return {200: {"model": view, "content": {"text/event-stream": {"itemSchema": chunk}}}}


async def answer_request(
    request: Request, services: Services, caller: Caller, body: ModelFields, id_prefix: str
) -> AnswerRequest:
    """The request to the engine, with the models that `body` names. `id_prefix`: of the answer's id."""
    model, blend = await _models(services, caller, body)
    return AnswerRequest(
        payer=Payer(caller.account, caller.key_id),
        model=model,
        blend=blend,
        message=body.to_generate(services.generate.default_max_tokens),
        body=await request.body(),
        num_choices=body.num_choices,
        seconds=body.seconds,
        is_streamed=bool(body.stream),
        id_prefix=id_prefix,
    )


async def respond(
    request: Request,
    services: Services,
    caller: Caller,
    asked: AnswerRequest,
    render: Callable[[Answer, str], Rendering],
    *,
    is_stream: bool,
) -> Response:
    """Start the answer and send it. `render` gets the answer, and the name that the model was resolved to."""
    limits = get_rate_limits(request)
    limits.check_tokens(request)
    try:
        answer = await while_connected(request, services.generate.start(asked))
        limits.count_tokens(caller.rate_limit_scopes, answer)
        rendering = render(answer, asked.model.name)
        if is_stream:
            return CompletionStream(rendering)
        return JSONResponse(await while_connected(request, rendering.complete()))
    except ClientDisconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _model(services: Services, caller: Caller, name: str) -> Model:
    model = await services.generate.model(name, caller.account)
    check_model(caller.models, model)
    return model


async def _models(services: Services, caller: Caller, body: ModelFields) -> tuple[Model, tuple[Part, ...]]:
    """The requested model, and the parts of its blend if there is one."""
    if not body.blend:
        return await _model(services, caller, body.model), ()
    base = await services.generate.model(body.model, caller.account)
    if not base.is_base:
        raise InvalidInput("With 'loraledger.blend', 'model' must be a base model.", param="model")
    weighted = [(await _model(services, caller, part.model), part.weight) for part in body.blend]
    other = next((part for part, _ in weighted if part.record.base_model != base.record.base_model), None)
    if other is not None:
        raise InvalidInput(f"{other.name} is no adapter of the base model {base.name!r}.", param="model")
    return base, build_blend(weighted)
