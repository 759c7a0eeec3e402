from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.content import cid_of
from backend.services.answers.generate import FETCHERS, AnswerInterrupted
from tests.support.market import some_hash
from tests.support.serving import request, reserved, text_of, until_idle

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted_installation import ScriptedInstallation


async def test_disconnecting_during_the_adapter_fetch_sends_no_request_to_the_engine(
    installation: ScriptedInstallation,
) -> None:
    fetching, go_on = threading.Event(), threading.Event()

    def slow(_folder: Path) -> None:
        fetching.set()
        go_on.wait()

    installation.store.folders[cid_of(some_hash("folder"))] = slow
    starting = asyncio.create_task(installation.generate.start(request(installation, installation.version)))
    await asyncio.to_thread(fetching.wait)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    go_on.set()
    await until_idle(installation)
    assert installation.engine.requests == []
    assert reserved(installation) == 0


async def test_an_adapter_that_was_deleted_to_make_room_is_fetched_by_the_next_answer(
    installation: ScriptedInstallation,
) -> None:
    record = installation.catalogue.record(installation.version)
    for num_fetches in (1, 2):
        answer = await installation.generate.start(request(installation, installation.version))
        await text_of(answer)
        assert installation.store.num_fetches == num_fetches
        installation.folders.drop(cid_of(record.cid_digest))


async def test_a_fetch_that_takes_too_long_ends_the_answer_and_frees_its_money(
    installation: ScriptedInstallation,
) -> None:
    go_on = threading.Event()

    def slow(_folder: Path) -> None:
        go_on.wait()

    installation.store.folders[cid_of(some_hash("folder"))] = slow
    generate = installation.generating(answer_seconds=0.05)
    with pytest.raises(AnswerInterrupted, match="too long"):
        await generate.start(request(installation, installation.version))
    assert reserved(installation) == 0
    assert installation.engine.requests == []
    go_on.set()
    await generate.close()


async def test_slow_fetches_hold_up_only_who_waits_for_them(installation: ScriptedInstallation) -> None:
    await text_of(await installation.generate.start(request(installation, installation.version)))
    record = installation.catalogue.resolve(installation.version).record
    fetching, go_on = threading.Semaphore(0), threading.Event()

    def slow(_folder: Path) -> None:
        fetching.release()
        go_on.wait()

    waiting = []
    for number in range(FETCHERS):
        far = replace(record, adapter_digest=some_hash(f"far {number}"), cid_digest=some_hash(f"at {number}"))
        installation.store.folders[cid_of(far.cid_digest)] = slow
        wanted = request(installation, installation.view.register(far))
        waiting += [asyncio.create_task(installation.generate.start(wanted)) for _ in range(2)]
    for _ in range(FETCHERS):
        await asyncio.to_thread(fetching.acquire)
    await text_of(await installation.generate.start(request(installation, installation.version)))
    go_on.set()
    for answer in await asyncio.gather(*waiting):
        await text_of(answer)
    assert installation.store.num_fetches == 1 + FETCHERS
