from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Unavailable
from backend.services.answers.generate import MAX_BYTES_PER_TOKEN, ContextLengthExceeded
from backend.services.channels.ledger import InsufficientBalance
from inference.protocol import Message
from tests.support.serving import receipts, request, reserved, text_of, until_idle

if TYPE_CHECKING:
    from tests.support.scripted_installation import ScriptedInstallation


async def test_an_answer_is_charged_by_its_tokens(installation: ScriptedInstallation) -> None:
    answer = await installation.generate.start(request(installation, installation.version))
    assert await text_of(answer) == "Hello there, world."
    receipt = answer.final.receipt.signed.receipt
    assert (receipt.prompt_tokens, receipt.completion_tokens) == (2, 4)
    assert receipt.charge == receipt.cumulative == 2 * 10 + 4 * 20
    assert answer.final.finish_reasons == ("stop",)
    assert reserved(installation) == 0


async def test_the_engine_is_told_who_pays_and_what_it_saved_is_said(
    installation: ScriptedInstallation,
) -> None:
    """Cached prompt tokens have the same price as others."""
    installation.engine.cached_prompt_tokens = 1
    answer = await installation.generate.start(request(installation, installation.version))
    await text_of(answer)
    assert [sent.payer for sent in installation.engine.requests] == [installation.payer.account]
    assert answer.final.cached_prompt_tokens == 1
    assert answer.final.receipt.signed.receipt.prompt_tokens == 2


async def test_money_is_kept_before_the_engine_works(installation: ScriptedInstallation) -> None:
    installation.engine.waits_after = 1
    answer = await installation.generate.start(request(installation, installation.version, max_tokens=3))
    assert reserved(installation) == 2 * 10 + 3 * 20
    answer.hang_up()
    await until_idle(installation)


async def test_without_money_the_engine_is_not_asked(installation: ScriptedInstallation) -> None:
    installation.fund(2 * 10 + 3 * 20 - 1)
    with pytest.raises(InsufficientBalance):
        await installation.generate.start(request(installation, installation.version, max_tokens=3))
    assert not installation.engine.requests
    assert installation.store.num_fetches == 0


async def test_the_answer_fits_the_context(installation: ScriptedInstallation) -> None:
    installation.engine.max_context = 5
    answer = await installation.generate.start(request(installation, "tiny", max_tokens=100))
    await text_of(answer)
    assert installation.engine.requests[0].sampling.max_tokens == 3
    assert answer.final.finish_reasons == ("length",)


async def test_a_prompt_that_fills_the_context_is_refused(installation: ScriptedInstallation) -> None:
    installation.engine.max_context = 2
    with pytest.raises(ContextLengthExceeded) as caught:
        await installation.generate.start(request(installation, "tiny"))
    assert caught.value.param == "messages"


async def test_the_receipt_is_durable_before_the_answer_ends(installation: ScriptedInstallation) -> None:
    answer = await installation.generate.start(request(installation, installation.version))
    async for _ in answer.chunks():
        pass
    assert [stored.id for stored in receipts(installation)] == [answer.final.receipt.id]


async def test_an_unavailable_engine_is_reported_before_anything_is_reserved(
    installation: ScriptedInstallation,
) -> None:
    installation.engine.is_gone = True
    with pytest.raises(Unavailable):
        await installation.generate.start(request(installation, installation.version))
    assert reserved(installation) == 0


async def test_parallel_answers_tile_the_line(installation: ScriptedInstallation) -> None:
    answers = await asyncio.gather(
        *(installation.generate.start(request(installation, installation.version)) for _ in range(8))
    )
    await asyncio.gather(*(text_of(answer) for answer in answers))
    ends = sorted(answer.final.receipt.signed.receipt.cumulative for answer in answers)
    assert ends == [100 * n for n in range(1, 9)]
    assert installation.store.num_fetches == 1


async def test_an_empty_channel_is_refused_before_the_prompt_is_tokenised(
    installation: ScriptedInstallation,
) -> None:
    installation.fund(10 + 20 - 1)
    with pytest.raises(InsufficientBalance):
        await installation.generate.start(request(installation, installation.version))
    assert installation.engine.counted == []


async def test_a_prompt_of_too_many_bytes_is_refused_before_it_is_tokenised(
    installation: ScriptedInstallation,
) -> None:
    text = "x" * (installation.engine.max_context * MAX_BYTES_PER_TOKEN + 1)
    with pytest.raises(ContextLengthExceeded, match="bytes"):
        await installation.generate.start(request(installation, "tiny", text=text))
    assert installation.engine.counted == [(Message("user", ""),)]
