"""Events of amounts that cross what an endpoint's owner set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.money import AMOUNT, UNIT
from backend.domain.webhooks import EventType
from backend.services.accounts.balance_events import BalanceEvents
from backend.services.channels.admission import Counterparty, Payer
from backend.services.webhooks.endpoints import EndpointOptions
from tests.support.fakes import FakeClock
from tests.support.scripted_installation import ScriptedInstallation
from tests.support.settlement_harness import SettlementHarness
from tests.support.webhooks import WebhookHarness, events_of, register

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    return ScriptedInstallation(tmp_path, sqlite_database)


@pytest.fixture
def settlement(tmp_path: Path) -> Iterator[SettlementHarness]:
    harness = SettlementHarness(tmp_path, max_price=2_000_000)
    yield harness
    harness.database.close()


def amounts(database: Database, endpoint_id: str, name: str) -> list[int]:
    """The amount of this name of each event, oldest first."""
    return [AMOUNT.read(data[name]) for _, data in events_of(database, endpoint_id)]


def finalise(harness: SettlementHarness, answers: int) -> None:
    for _ in range(answers):
        harness.serve()
    harness.settler().run_once(is_forced=True)
    harness.mine()
    harness.chain.time += 60
    harness.settler().finalise()
    harness.mine()


def test_a_balance_is_told_once_each_time_it_falls_below_the_limit(
    installation: ScriptedInstallation,
) -> None:
    built, payer = installation, installation.payer.account
    events = BalanceEvents(built.db, built.counterparty, built.clock)
    low, lower = (
        register(built.database, payer, EventType.BALANCE_LOW, low_balance=most) for most in (500, 100)
    )
    events.sweep()  # an account without a channel is told nothing
    for balance in (1000, 499, 300, 500, 50, 20):
        built.fund(balance)
        events.sweep()
        events.sweep()
    assert amounts(built.database, low, "available") == [499, 50]
    [(event, data)] = events_of(built.database, lower)
    assert event == "channel.balance_low"
    assert data == {
        "id": built.channel,
        "available": AMOUNT.render(50),
        "low_balance": AMOUNT.render(100),
    }


def test_an_endpoint_that_asks_for_low_balances_again_is_told_of_one_that_is_low_already(
    installation: ScriptedInstallation,
) -> None:
    built, payer = installation, installation.payer.account
    events, endpoints = (
        BalanceEvents(built.db, built.counterparty, built.clock),
        WebhookHarness(built.database).endpoints,
    )
    endpoint = register(built.database, payer, EventType.BALANCE_LOW, low_balance=500)
    built.fund(300)
    events.sweep()
    for kinds in ((EventType.JOB_FAILED,), (EventType.BALANCE_LOW,)):
        endpoints.change(payer, endpoint, EndpointOptions(event_types=kinds))
    events.sweep()
    assert amounts(built.database, endpoint, "available") == [300, 300]


def test_an_endpoint_that_is_disabled_during_a_sweep_is_told_nothing(
    installation: ScriptedInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = installation
    events = BalanceEvents(built.db, built.counterparty, built.clock)
    endpoint = register(built.database, built.payer.account, EventType.BALANCE_LOW)
    built.fund(1)
    tell = BalanceEvents._report_balance

    def disable_first(self: BalanceEvents, *args: Any) -> None:
        built.services.webhooks.change(built.payer.account, endpoint, EndpointOptions(is_enabled=False))
        tell(self, *args)

    monkeypatch.setattr(BalanceEvents, "_report_balance", disable_first)
    events.sweep()
    assert events_of(built.database, endpoint) == []


def test_what_thaws_or_is_not_authorised_is_not_available_and_reservations_are_no_reason(
    installation: ScriptedInstallation,
) -> None:
    built = installation
    events = BalanceEvents(built.db, built.counterparty, built.clock)
    endpoint = register(built.database, built.payer.account, EventType.BALANCE_LOW, low_balance=500)
    built.fund(1000)
    built.admission.reserve(Payer(built.payer.account), 900)
    events.sweep()
    assert events_of(built.database, endpoint) == []
    built.fund(1000, thawing=600)
    events.sweep()
    built.fund(1000)
    events.sweep()
    built.revoke_session()
    events.sweep()
    assert amounts(built.database, endpoint, "available") == [400, 0]


def test_earnings_of_final_batches_are_told_once_they_reach_the_minimum(
    settlement: SettlementHarness,
) -> None:
    counterparty = Counterparty(
        settlement.market.operator, settlement.market.settlement, settlement.market.domain
    )
    events = BalanceEvents(settlement.db, counterparty, FakeClock())
    finalise(settlement, 12)
    balances = settlement.auditor().follow(counterparty.operator).balances
    account, earned = max(balances.items(), key=lambda item: item[1])
    few = register(settlement.database, account, EventType.EARNINGS_CLAIMABLE, min_earnings=1)
    many = register(settlement.database, account, EventType.EARNINGS_CLAIMABLE, min_earnings=earned + 1)
    for _ in range(2):
        events.sweep()
    [(event, data)] = events_of(settlement.database, few)
    assert event == "earnings.claimable"
    assert data == {
        "account": account,
        "operator": counterparty.operator,
        "claimable": AMOUNT.render(earned // UNIT * UNIT),
        "cumulative": AMOUNT.render(earned),
    }
    assert events_of(settlement.database, many) == []
    settlement.claims().relay(counterparty.operator, account)
    assert settlement.mine() == 1
    finalise(settlement, 12)
    events.sweep()
    assert len(events_of(settlement.database, few)) == 1  # the settler has not verified the batch yet
    more = settlement.auditor().follow(counterparty.operator).balances[account]
    events.sweep()
    claimable = (more - earned // UNIT * UNIT) // UNIT * UNIT
    assert amounts(settlement.database, few, "claimable")[1:] == [claimable]
    assert amounts(settlement.database, few, "cumulative") == [earned, more]
    assert amounts(settlement.database, many, "claimable") == [claimable]


def test_earnings_of_a_batch_that_is_not_final_are_not_claimable(settlement: SettlementHarness) -> None:
    counterparty = Counterparty(
        settlement.market.operator, settlement.market.settlement, settlement.market.domain
    )
    events = BalanceEvents(settlement.db, counterparty, FakeClock())
    for _ in range(12):
        settlement.serve()
    settlement.settler().run_once(is_forced=True)
    settlement.mine()
    balances = settlement.auditor().follow(counterparty.operator).balances
    account = max(balances, key=lambda account: balances[account])
    endpoint = register(settlement.database, account, EventType.EARNINGS_CLAIMABLE, min_earnings=1)
    events.sweep()
    assert events_of(settlement.database, endpoint) == []
    settlement.chain.time += 60
    settlement.settler().finalise()
    settlement.mine()
    events.sweep()
    assert len(events_of(settlement.database, endpoint)) == 1


def test_a_process_that_dies_between_two_accounts_tells_the_rest_later(
    settlement: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    counterparty = Counterparty(
        settlement.market.operator, settlement.market.settlement, settlement.market.domain
    )
    finalise(settlement, 12)
    balances = settlement.auditor().follow(counterparty.operator).balances
    earners = [account for account, amount in balances.items() if amount >= UNIT][:2]
    made = [
        register(settlement.database, account, EventType.EARNINGS_CLAIMABLE, min_earnings=1)
        for account in earners
    ]
    events, tell = BalanceEvents(settlement.db, counterparty, FakeClock()), BalanceEvents._report_earnings
    calls: list[int] = []

    def tell_once(self: BalanceEvents, *args: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        tell(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(BalanceEvents, "_report_earnings", tell_once)
        with pytest.raises(KeyboardInterrupt):
            events.sweep()
    events.sweep()
    assert [len(events_of(settlement.database, endpoint)) for endpoint in made] == [1, 1]
