"""OpenAI-compatible answers, each with its receipt."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from backend.api.choices import ChatShape
from backend.api.completions import Completion, CompletionStream, Wanted
from backend.api.deps import CallerDep, ServicesDep
from backend.api.disconnect import ClientLeft, while_connected
from backend.api.schemas.chat import ChatCompletionRequest
from backend.services.admission import Payer
from backend.services.generate import AnswerRequest

router = APIRouter(prefix="/v1/chat", tags=["chat"])

CLIENT_CLOSED_REQUEST = 499
"""Nobody reads it but the access log."""


@router.post("/completions", response_model=None)
async def create_chat_completion(
    body: ChatCompletionRequest, request: Request, services: ServicesDep, caller: CallerDep
) -> Response:
    model = await services.generate.model(body.model)
    asked = AnswerRequest(
        payer=Payer(caller.account, caller.key_id),
        model=model,
        turns=body.turns(),
        sampling=body.sampling(),
        body=await request.body(),
        num_choices=body.num_choices,
        priority=body.priority,
        seconds=body.seconds,
    )
    wanted = Wanted(
        model=model.name,
        shape=ChatShape(),
        num_choices=body.num_choices,
        has_logprobs=bool(body.logprobs),
        service_tier=body.served_tier,
    )
    try:
        answer = await while_connected(request, services.generate.start(asked))
        completion = Completion(answer, wanted)
        if not body.stream:
            return JSONResponse(await while_connected(request, completion.whole()))
    except ClientLeft:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return CompletionStream(completion, include_usage=body.includes_usage)
