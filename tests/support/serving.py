"""Answers of a scripted installation: their requests, texts and receipts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.services.answers.request import AnswerRequest
from backend.services.channels.admission import Payer
from inference.protocol import Generate, Message, Sampling

if TYPE_CHECKING:
    from backend.domain.serving import StoredReceipt
    from backend.services.answers.answer import Answer
    from tests.support.scripted_installation import ScriptedInstallation

BODY = b'{"model": "...", "messages": []}'


def request(
    installation: ScriptedInstallation, model: str, max_tokens: int = 16, text: str = "say hello"
) -> AnswerRequest:
    return AnswerRequest(
        payer=Payer(installation.payer.account),
        model=installation.catalogue.resolve(model),
        message=Generate("", (Message("user", text),), sampling=Sampling(max_tokens=max_tokens)),
        body=BODY,
    )


def receipts(installation: ScriptedInstallation) -> list[StoredReceipt]:
    return list(installation.services.receipts.page(installation.payer.account, None, 10))


def reserved(installation: ScriptedInstallation) -> int:
    channel = installation.services.channels.get(installation.payer.account, installation.channel)
    return channel.balance.reserved


async def text_of(answer: Answer) -> str:
    return "".join([chunk.text async for _, chunk in answer.chunks()])


async def until_idle(installation: ScriptedInstallation) -> None:
    await installation.generate.close()
