from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Unavailable
from tests.support.serving import receipts, request, reserved, text_of, until_idle

if TYPE_CHECKING:
    from tests.support.scripted_installation import ScriptedInstallation


async def test_a_client_that_disconnects_pays_for_the_generated_tokens(
    installation: ScriptedInstallation,
) -> None:
    installation.engine.waits_after = 2
    answer = await installation.generate.start(request(installation, installation.version))
    answer.hang_up()
    await until_idle(installation)
    (stored,) = receipts(installation)
    assert stored.signed.receipt.completion_tokens == 2
    assert stored.signed.receipt.charge == 2 * 10 + 2 * 20
    assert reserved(installation) == 0


async def test_disconnecting_before_the_first_chunk_aborts_the_generation(
    installation: ScriptedInstallation,
) -> None:
    installation.engine.waits_after = 0
    starting = asyncio.create_task(installation.generate.start(request(installation, installation.version)))
    await installation.engine.asked.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await until_idle(installation)
    assert installation.engine.aborted
    assert receipts(installation) == []
    assert reserved(installation) == 0


async def test_an_engine_that_breaks_costs_nothing(installation: ScriptedInstallation) -> None:
    installation.engine.breaks_after = 2
    answer = await installation.generate.start(request(installation, installation.version))
    with pytest.raises(Unavailable):
        await text_of(answer)
    await until_idle(installation)
    assert receipts(installation) == []
    assert reserved(installation) == 0


async def test_a_reservation_that_cannot_be_released_does_not_replace_the_error(
    installation: ScriptedInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a charge whose commit was not answered took effect is unknown; the release's error would say
    that nothing was changed.
    """

    async def lose(*_: object) -> None:
        raise ConnectionError("no answer to COMMIT")

    async def fail(_: object) -> None:
        raise Unavailable("The database is away. Nothing was changed.")

    monkeypatch.setattr(installation.admitting, "charge", lose)
    monkeypatch.setattr(installation.admitting, "release", fail)
    answer = await installation.generate.start(request(installation, installation.version))
    with pytest.raises(ConnectionError):
        await text_of(answer)


async def test_closing_charges_what_runs(installation: ScriptedInstallation) -> None:
    installation.engine.waits_after = 3
    await installation.generate.start(request(installation, installation.version))
    await installation.generate.close()
    (stored,) = receipts(installation)
    assert stored.signed.receipt.completion_tokens == 3


async def test_an_answer_that_takes_too_long_is_cut_off_and_charged_so_far(
    installation: ScriptedInstallation,
) -> None:
    installation.engine.waits_after = 2
    generate = installation.generating(answer_seconds=0.05)
    answer = await generate.start(request(installation, "tiny"))
    assert await text_of(answer) == "Hello there"
    assert answer.final.finish_reasons == ("abort",)
    assert answer.final.receipt.signed.receipt.completion_tokens == 2
    await generate.close()
