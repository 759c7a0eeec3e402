from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.batch import Header
from backend.domain.money import UNIT
from backend.domain.registries import Operator
from backend.services.accounts.claims import NothingToClaim
from backend.services.audit.auditor import WrongBatch
from tests.support.market import some_account, some_hash
from tests.support.town import Town

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.ids import Account


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """Prices are such that a dozen answers earn everybody some units."""
    town = Town(tmp_path, max_price=2_000_000)
    yield town
    town.database.close()


def finalise(town: Town, answers: int) -> None:
    for _ in range(answers):
        town.serve()
    town.settler().run_once(is_forced=True)
    town.mine()
    town.chain.time += 60
    town.settler().finalise()
    town.mine()


def earners(town: Town) -> dict[Account, int]:
    ledger = town.auditor().follow(town.market.operator)
    return {account: amount for account, amount in ledger.balances.items() if amount >= UNIT}


def test_everybody_who_earned_a_unit_is_paid_in_whole_units(town: Town) -> None:
    finalise(town, 12)
    expected = earners(town)
    assert len(expected) > 3
    for account in expected:
        town.claims().relay(town.market.operator, account)
    assert town.mine() == len(expected)
    for account, earned in expected.items():
        (claim,) = town.chain.claims(account)
        assert claim.amount == earned // UNIT * UNIT


def test_only_the_increase_is_claimed_the_next_time(town: Town) -> None:
    operator = town.market.operator
    finalise(town, 12)
    account = max(earners(town), key=lambda a: earners(town)[a])
    town.claims().relay(operator, account)
    town.mine()
    with pytest.raises(NothingToClaim):
        town.claims().relay(operator, account)
    finalise(town, 12)
    (found,) = town.claims().claimable(account)
    assert found.claimed == town.chain.claims(account)[0].cumulative
    town.claims().relay(operator, account)
    town.mine()
    paid = sum(claim.amount for claim in town.chain.claims(account))
    assert 0 <= earners(town)[account] - paid < UNIT


def test_the_same_claim_is_sent_once(town: Town) -> None:
    finalise(town, 12)
    account = next(iter(earners(town)))
    rows = {town.claims().relay(town.market.operator, account) for _ in range(2)}
    assert len(rows) == 1


def test_a_claim_that_failed_can_be_sent_again(town: Town) -> None:
    finalise(town, 12)
    account = next(iter(earners(town)))
    first = town.claims().relay(town.market.operator, account)
    town.chain.final = 0
    assert town.mine() == 0
    town.chain.final = 1
    assert town.claims().relay(town.market.operator, account) != first
    assert town.mine() == 1


def test_what_is_not_final_cannot_be_claimed(town: Town) -> None:
    town.serve()
    town.settler().run_once(is_forced=True)
    town.mine()
    assert town.claims().claimable(some_account("treasury")) == []
    with pytest.raises(NothingToClaim):
        town.claims().relay(town.market.operator, some_account("treasury"))


def test_less_than_the_threshold_stays_credited(town: Town) -> None:
    finalise(town, 4)
    operator = town.market.operator
    (found,) = town.claims().claimable(operator)
    with pytest.raises(NothingToClaim) as caught:
        town.claims().relay(operator, operator, found.units + 1)
    assert caught.value.details == {"amount": str(found.amount)}


def test_a_prepared_claim_is_simulated_for_its_sender(town: Town) -> None:
    finalise(town, 12)
    account = next(iter(earners(town)))
    prepared = town.claims().prepare(town.market.operator, account, sender=account)
    assert prepared.decoded["args"][0]["account"] == account


@pytest.mark.parametrize("is_wrong", [False, True])
def test_an_operator_that_cannot_be_verified_does_not_hide_what_others_owe(
    town: Town, is_wrong: bool
) -> None:
    finalise(town, 12)
    account = next(iter(earners(town)))
    (honest,) = town.claims().claimable(account)
    other = some_account("another operator")
    town.chain.others.append(Operator(other, "", (), 0))
    (batch,) = town.chain.committed
    lost = batch.header["dataDigest"] if is_wrong else some_hash("data that nobody has")
    header = {**batch.header, "operator": other, "dataDigest": lost}
    town.chain.committed.append(
        replace(batch, operator=other, header=header, hash=Header.from_chain(header).hash)
    )
    found, same = town.claims().claimable(account)
    assert same == honest
    assert (found.operator, found.amount) == (other, 0)
    assert found.unverifiable is not None
    assert ("is wrong: the batch data names" if is_wrong else "the batch data") in found.unverifiable
    with pytest.raises(WrongBatch):
        town.claims().relay(other, account)


def test_an_account_that_never_earned_has_nothing_to_claim(town: Town) -> None:
    finalise(town, 3)
    assert town.claims().claimable(some_account("stranger")) == []
