from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.db.serving import ChannelStore
from backend.domain.chain import Reverted
from backend.domain.errors import InvalidInput
from backend.domain.ids import ZERO_ACCOUNT
from backend.domain.money import AMOUNT
from backend.services.channels.balance import ViewStale
from backend.services.channels.deposits import NO_GRANT, SessionGrant
from backend.services.channels.ledger import InsufficientBalance
from backend.services.channels.moves import (
    LEAST_MOVE,
    LONGEST_MOVE_SECONDS,
    MOVE_SECONDS,
    MovePending,
    MoveTerms,
    NothingToMove,
)
from tests.support.fakes import EXPIRY, NOW
from tests.support.market import some_account
from tests.support.move_harness import NEXT, SIGNATURE, MoveHarness, X

if TYPE_CHECKING:
    from backend.domain.channels import Move


def test_the_payer_signs_what_the_vault_checks(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    grant = SessionGrant(some_account("session key"), 5 * X, EXPIRY)
    terms, typed_data = harness.moves.prepare(harness.payer.account, NEXT, 3 * X, grant)
    assert terms == MoveTerms(NEXT, 3 * X, grant, 0, int(NOW.timestamp()) + MOVE_SECONDS)
    assert typed_data["primaryType"] == "ChannelMove"
    assert typed_data["message"] == {
        "payer": harness.payer.account,
        "operator": harness.installation.operator,
        "collector": harness.installation.settlement,
        "newCollector": NEXT,
        "maxAmount": str(3 * X),
        "key": grant.key,
        "cap": str(5 * X),
        "expiry": str(EXPIRY),
        "nonce": "0",
        "deadline": str(terms.deadline),
    }
    assert typed_data["domain"]["verifyingContract"] == some_account("PaymentVault")


def test_all_moves_but_what_is_charged_and_not_collected_reserved_or_thawing(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X, thawing=X)
    harness.charge(harness.reserve(3 * X), 2 * X)
    harness.reserve(3 * X)
    move = harness.move()
    assert move.amount == 4 * X
    transaction = harness.transaction(move)
    assert (transaction.lane, transaction.contract) == (harness.installation.operator, "PaymentVault")
    payer, consent, amount, signature = transaction.args
    assert (payer, amount, signature) == (harness.payer.account, str(4 * X), SIGNATURE)
    assert consent["grant"] == NO_GRANT.as_argument()
    assert (consent["collector"], consent["newCollector"]) == (harness.installation.settlement, NEXT)
    with harness.installation.read() as tx:
        assert tx.transactions.is_requested(harness.payer.account, move.transaction_id)


def test_what_was_collected_is_not_left_behind(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    harness.charge(harness.reserve(3 * X), 3 * X)
    harness.show(balance=8 * X, collected=2 * X)
    assert harness.move().amount == 7 * X


def test_no_more_than_the_payers_maximum_moves(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    assert harness.move(3 * X).amount == 3 * X
    assert harness.balance.available == 7 * X


def test_a_moving_amount_cannot_be_spent_before_and_after_the_chain_shows_the_move(
    harness: MoveHarness,
) -> None:
    harness.installation.fund(10 * X)
    harness.charge(harness.reserve(X), X)
    move = harness.move(6 * X)

    def check(moving: int) -> None:
        assert (harness.balance.moving, harness.balance.available) == (moving, 3 * X)
        with pytest.raises(InsufficientBalance):
            harness.reserve(3 * X + 1)

    check(moving=6 * X)
    harness.confirm(move)
    check(moving=6 * X)
    harness.show(balance=4 * X, next_move_nonce=1)
    check(moving=0)
    harness.show(balance=10 * X, next_move_nonce=0)  # a reorganisation
    check(moving=6 * X)


def test_a_move_that_failed_for_good_can_be_spent_again(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    move = harness.move()
    assert harness.balance.available == 0
    harness.fail(move)
    assert harness.balance.available == 10 * X


def test_a_move_is_over_once_the_indexed_chain_has_passed_its_deadline(harness: MoveHarness) -> None:
    """Its transaction may still be queued, or be confirmed and removed by a reorganisation."""
    harness.installation.fund(10 * X)
    harness.confirm(harness.move())
    view, clock = harness.installation.view, harness.installation.clock
    clock.pass_seconds(MOVE_SECONDS + 1)
    view.lag_seconds = 1
    assert harness.balance.available == 0
    view.lag_seconds = 0
    assert harness.balance.available == 10 * X
    harness.vault.nonce = 0
    assert harness.move().amount == 10 * X


def test_a_block_that_is_indexed_while_balances_are_read_ends_no_move_that_they_do_not_show(
    harness: MoveHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.installation.fund(10 * X)
    harness.confirm(harness.move())
    view, known_channels = harness.installation.view, harness.installation.view.known_channels

    def indexed_afterwards(channels: Any) -> Any:
        found = known_channels(channels)
        harness.show(balance=0, next_move_nonce=1)
        harness.installation.clock.pass_seconds(MOVE_SECONDS + 1)
        return found

    monkeypatch.setattr(view, "known_channels", indexed_afterwards)
    assert harness.balance.available == 0


def test_the_same_request_again_is_the_same_move(any_harness: MoveHarness) -> None:
    harness = any_harness
    harness.installation.fund(10 * X)
    terms = harness.terms()
    move = harness.relay(terms)
    assert harness.relay(terms) == move
    harness.confirm(move)
    assert harness.relay(terms) == move
    harness.show(balance=0, next_move_nonce=1)
    assert harness.relay(terms) == move
    assert len(harness.queued()) == 1


def test_the_same_request_after_a_failure_moves_what_can_be_spared_then(any_harness: MoveHarness) -> None:
    harness = any_harness
    harness.installation.fund(10 * X)
    terms = harness.terms()
    harness.fail(harness.relay(terms))
    harness.charge(harness.reserve(2 * X), 2 * X)
    again = harness.relay(terms)
    assert (again.amount, harness.balance.moving) == (8 * X, 8 * X)


def test_of_two_moves_with_one_nonce_the_second_waits_for_the_first_to_fail(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    first, second = harness.terms(2 * X), harness.terms(3 * X)
    pending = harness.relay(first)
    for refused in (lambda: harness.relay(second), harness.terms):
        with pytest.raises(MovePending) as caught:
            refused()
        assert caught.value.details == {"transaction_id": pending.transaction_id}
    harness.fail(pending)
    assert harness.relay(second).amount == 3 * X
    with pytest.raises(MovePending):
        harness.relay(first)


def test_a_second_move_can_follow_before_the_first_is_indexed(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    harness.confirm(harness.move(4 * X))
    assert harness.move().amount == 6 * X
    assert harness.balance.moving == 10 * X


def test_what_the_vault_would_refuse_is_not_queued(harness: MoveHarness) -> None:
    """For instance because a grant has used the nonce since."""
    harness.installation.fund(10 * X)
    terms = harness.terms()
    harness.vault.nonce = 1
    with pytest.raises(Reverted):
        harness.relay(terms)
    assert (harness.queued(), harness.balance.moving) == ([], 0)


def test_a_process_that_dies_before_the_commit_has_queued_and_held_nothing(
    harness: MoveHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.installation.fund(10 * X)
    terms = harness.terms()

    def die(_store: ChannelStore, _move: Move) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ChannelStore, "add_move", die)
        with pytest.raises(KeyboardInterrupt):
            harness.relay(terms)
    assert (harness.queued(), harness.balance.available) == ([], 10 * X)
    assert harness.relay(terms).amount == 10 * X


def test_a_move_that_leaves_nothing_to_move_is_refused(harness: MoveHarness) -> None:
    with pytest.raises(NothingToMove):
        harness.terms()
    harness.installation.fund(10 * X, thawing=2 * X)
    terms = harness.terms()
    harness.charge(harness.reserve(5 * X), 5 * X)
    harness.reserve(3 * X - LEAST_MOVE + 1)
    with pytest.raises(NothingToMove) as caught:
        harness.relay(terms)
    assert caught.value.details == {
        "balance": AMOUNT.render(10 * X),
        "uncollected": AMOUNT.render(5 * X),
        "reserved": AMOUNT.render(3 * X - LEAST_MOVE + 1),
        "thawing": AMOUNT.render(2 * X),
        "moving": AMOUNT.render(0),
    }
    assert harness.queued() == []


def test_nothing_moves_while_the_view_of_the_chain_is_stale(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    terms = harness.terms()
    harness.installation.view.lag_seconds = 61
    with pytest.raises(ViewStale):
        harness.relay(terms)
    with pytest.raises(ViewStale):
        harness.terms()
    assert harness.queued() == []


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"new_collector": ZERO_ACCOUNT}, "new_collector"),
        ({"new_collector": some_account("settlement")}, "new_collector"),
        ({"max_amount": LEAST_MOVE - 1}, "max_amount"),
        ({"max_amount": 1 << 128}, "max_amount"),
        ({"deadline": int(NOW.timestamp()) + LONGEST_MOVE_SECONDS + 1}, "deadline"),
    ],
)
def test_terms_that_make_no_sense_are_refused(
    harness: MoveHarness, changes: dict[str, Any], param: str
) -> None:
    harness.installation.fund(10 * X)
    with pytest.raises(InvalidInput) as caught:
        harness.relay(replace(harness.terms(), **changes))
    assert caught.value.param == param


def test_a_signature_that_is_no_hex_is_refused(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    with pytest.raises(InvalidInput, match="signature must be hex"):
        harness.moves.relay(harness.payer.account, harness.terms(), "xx")
