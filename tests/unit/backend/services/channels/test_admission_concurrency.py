"""Requests at the same time: threads, processes and one event loop."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from sqlalchemy import event

from backend.db.unit_of_work import Database
from backend.domain.errors import PaymentRequired
from backend.services.channels.admission import Admission, Payer
from backend.services.channels.ledger import InsufficientBalance, SpendCapReached
from tests.support.admission import available, bill, settle
from tests.support.databases import ViewDatabase
from tests.support.fakes import some_key

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from backend.domain.serving import NewReceipt, Reservation
    from tests.support.scripted_installation import ScriptedInstallation
T = TypeVar("T")


async def at_once(coroutines: list[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
    return await asyncio.gather(*coroutines, return_exceptions=True)


@pytest.mark.parametrize(("balance", "cap"), [(700, 10_000), (10_000, 700)])
def test_two_hundred_requests_at_a_time_never_spend_more_than_balance_or_cap(
    any_installation: ScriptedInstallation, payer: Payer, balance: int, cap: int
) -> None:
    installation = any_installation
    installation.fund(balance, cap)
    start = threading.Barrier(200)

    def ask(charge: int) -> int:
        """Where the answer's receipt ends; 0 for one that was refused."""
        start.wait()
        try:
            reservation = installation.admission.reserve(payer, 7)
        except PaymentRequired:
            return 0
        if charge:
            return settle(installation, payer, reservation, charge)
        installation.admission.release(reservation)
        return 0

    charges = [7, 5, 0, 3] * 50
    with ThreadPoolExecutor(200) as threads:
        ends = sorted(filter(None, threads.map(ask, charges)))
    with installation.read() as tx:
        stored = tx.receipts.unsettled(installation.channel, 0, 1000)
    assert [signed.receipt.cumulative for signed in stored] == ends
    assert [s.receipt.cumulative - s.receipt.charge for s in stored] == [0, *ends[:-1]]
    assert max(ends) <= min(balance, cap)
    assert available(installation) == min(balance, cap) - max(ends)


def test_two_hundred_requests_at_a_time_never_spend_more_than_a_keys_cap(
    any_installation: ScriptedInstallation,
) -> None:
    installation = any_installation
    installation.fund(10_000)
    key = installation.services.keys.create(installation.payer.account, "capped", spend_cap=350).key
    payer = Payer(installation.payer.account, key.id)
    asked = asyncio.run(at_once([installation.admitting.reserve(payer, 7) for _ in range(200)]))
    kept = [found for found in asked if not isinstance(found, BaseException)]
    assert len(kept) == 50
    for reservation in kept:
        settle(installation, payer, reservation, 6)
    (known,) = installation.services.keys.list(installation.payer.account)
    assert known.spent == 300
    assert installation.admission.reserve(payer, 50)
    with pytest.raises(SpendCapReached):
        installation.admission.reserve(payer, 1)


def test_concurrent_reservations_share_transactions(installation: ScriptedInstallation, payer: Payer) -> None:
    installation.fund(10_000)
    commits = []
    event.listen(installation.database.engine, "commit", lambda _: commits.append(1))
    asked = asyncio.run(at_once([installation.admitting.reserve(payer, 1) for _ in range(200)]))
    assert not any(isinstance(found, BaseException) for found in asked)
    assert len(commits) <= 3


@pytest.mark.parametrize(("balance", "cap"), [(700, 10_000), (10_000, 700)])
def test_processes_that_share_a_database_never_spend_more_than_balance_or_cap(
    any_installation: ScriptedInstallation, balance: int, cap: int
) -> None:
    """Each has its connections and groups, and all reserve on one channel, with one key, at once."""
    installation = any_installation
    installation.fund(balance)
    key = installation.services.keys.create(installation.payer.account, "capped", spend_cap=cap).key
    payer = Payer(installation.payer.account, key.id)
    start = threading.Barrier(4)

    def process(_: int) -> list[Reservation | BaseException]:
        database = Database.open(installation.db.engine.url)
        admission = Admission(
            ViewDatabase(database, installation.view),
            installation.counterparty,
            lambda _: installation.receipt_key,
            installation.clock,
            900,
            60,
        )

        async def ask() -> list[Reservation | BaseException]:
            start.wait()
            found: list[Reservation | BaseException] = []
            for _ in range(8):
                found += await at_once([admission.reserve(payer, 7) for _ in range(5)])
            return found

        reserved = asyncio.run(ask())
        database.close()
        return reserved

    with ThreadPoolExecutor(4) as processes:
        asked = [found for group in processes.map(process, range(4)) for found in group]
    refusals = [found for found in asked if isinstance(found, BaseException)]
    assert len(asked) - len(refusals) == 100
    assert {type(refusal) for refusal in refusals} == {
        InsufficientBalance if balance == 700 else SpendCapReached
    }


def test_processes_that_share_a_database_never_wait_for_each_other_in_a_circle(
    any_installation: ScriptedInstallation,
) -> None:
    """Each has its groups of many channels; new lines are among them."""
    installation = any_installation
    payers = [some_key(f"payer {number}") for number in range(30)]
    for payer in payers:
        installation.payer, installation.channel = payer, installation.counterparty.channel(payer.account)
        installation.fund(1000)

    async def answer(admission: Admission, payer: Payer) -> NewReceipt:
        reservation = await admission.reserve(payer, 5)
        return await admission.charge(payer, reservation, bill(installation, 5))

    def process(seed: int) -> list[NewReceipt | BaseException]:
        admission = Admission(
            installation.db,
            installation.counterparty,
            lambda _: installation.receipt_key,
            installation.clock,
            900,
            60,
        )
        asking = [Payer(payer.account) for payer in payers] * 4
        random.Random(seed).shuffle(asking)
        return asyncio.run(at_once([answer(admission, payer) for payer in asking]))

    with ThreadPoolExecutor(3) as processes:
        answers = [found for group in processes.map(process, range(3)) for found in group]
    assert [found for found in answers if isinstance(found, BaseException)] == []
    with installation.read() as tx:
        lines = tx.channels.charged([installation.counterparty.channel(payer.account) for payer in payers])
    assert list(lines.values()) == [3 * 4 * 5] * 30
