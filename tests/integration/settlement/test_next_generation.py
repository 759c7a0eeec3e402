"""An operator, a payer and earners move to the next generation on the local chain."""

from __future__ import annotations

import re
import shlex
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from eth_account.messages import _hash_eip191_message, encode_typed_data
from typer.testing import CliRunner

from backend.chain.client import ChainClient
from backend.chain.indexer import Indexer
from backend.chain.keys import local_account
from backend.chain.local_node import ROOT
from backend.cli.main import app
from backend.cli.operator import membership
from backend.deployment.contracts import CREATIONS, GENERATION
from backend.deployment.deployer import Deployer
from backend.deployment.local import LOCAL_STAKE, local_terms
from backend.domain.hashing import TypedDomain
from backend.domain.money import UNIT
from backend.services.channels.admission import Counterparty
from backend.services.channels.balance import channel_balance
from backend.services.channels.deposits import SessionGrant
from backend.services.channels.moves import Moves
from backend.services.operator.membership import Membership, StakeLocked
from backend.services.operator.receipt_keys import ReceiptKeys
from backend.services.settle.settler import Step
from tests.integration.settlement.conftest import DEPOSIT, PAYER, SESSION_KEY, WINDOW
from tests.support.fakes import FakeHeldKeys
from tests.support.relays import relays_of
from tools.local_market import CREATOR, LONG_AFTER, OPERATOR

GUIDE = ROOT / "docs" / "operating.md"
RESTAKED = 1000 * 10**6
"""Token units that the guide's command moves."""

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.db.unit_of_work import Database
    from backend.domain.channels import Move
    from backend.domain.receipt import SignedReceipt
    from tests.integration.settlement.conftest import LiveMarket


def deploy_next_generation(chain: ChainClient) -> ChainClient:
    """Client of a market that shares all but the generation's contracts with this one."""
    replaced = (*GENERATION, "Generation")
    deployer = Deployer(chain.node, local_account(0))
    deployer.addresses = {n: at for n, at in chain.deployment.addresses.items() if n not in replaced}
    me, at = deployer.account, deployer.addresses
    terms = local_terms(at["TestUSD"], treasury=me, guardian=me, curators=())
    deployer.predict_addresses(GENERATION)
    for contract, arguments in CREATIONS:
        if contract in replaced:
            deployer.create(contract, *arguments(at, me, terms))
    return ChainClient(chain.node, replace(chain.deployment, addresses=dict(at)))


class Migration:
    """The services of the old installation that a migration uses."""

    def __init__(self, market: LiveMarket) -> None:
        self.market, self.next = market, deploy_next_generation(market.chain)
        counterparty = Counterparty(OPERATOR.account, market.settlement.contract, market.settlement)
        relays = relays_of(market.database, market.chain, OPERATOR.account)
        self.moves = Moves(market.database, market.chain, counterparty, relays, self._now, 60)
        keys = ReceiptKeys(OPERATOR.account, lambda: market.receipt_key, FakeHeldKeys)
        registry = TypedDomain(market.chain.chain_id, market.chain.address("OperatorRegistry"))
        self.membership = Membership(market.database, market.chain, OPERATOR.account, keys, registry)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.market.chain.head().timestamp, UTC)

    def answer(self) -> SignedReceipt:
        served = self.market.serve(PAYER, [self.market.adapter])
        with self.market.database.begin() as tx:
            tx.channels.lock(served.receipt.channel_id)
            tx.channels.advance({served.receipt.channel_id: served.receipt.cumulative})
        return served

    def move(self) -> Move:
        grant = SessionGrant(
            SESSION_KEY.account, DEPOSIT * UNIT, self.market.chain.head().timestamp + LONG_AFTER
        )
        collector = self.next.address("Settlement")
        terms, message = self.moves.prepare(PAYER.account, collector, grant=grant)
        signature = PAYER.sign(_hash_eip191_message(encode_typed_data(full_message=message)))
        moved = self.moves.relay(PAYER.account, terms, signature)
        self.market.pump()
        return moved

    def stakes(self) -> tuple[Any, Any]:
        """In token units, in the old and in the next registry."""
        found = (
            c.call("OperatorRegistry", "stakeOf", OPERATOR.account) for c in (self.market.chain, self.next)
        )
        old, new = (stake["stake"] // UNIT for stake in found)
        return old, new


def run_guide(migration: Migration, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the operator's command of docs/operating.md."""

    @contextmanager
    def opened() -> Iterator[Any]:
        deployment = SimpleNamespace(chain_id=migration.market.chain.chain_id)
        yield SimpleNamespace(
            deployment=deployment, membership=migration.membership, prepare_database=lambda: None
        )

    monkeypatch.setattr(membership, "open_installation", opened)
    (command,) = re.findall(r"^ *loraledger (operator restake .*)$", GUIDE.read_text(), re.MULTILINE)
    named = command.replace("$NEW_REGISTRY", migration.next.address("OperatorRegistry"))
    result = CliRunner().invoke(app, shlex.split(named))
    assert result.exit_code == 0, (result.output, result.exception)


def test_balance_and_stake_move_and_what_was_left_behind_is_settled_and_claimed(
    market: LiveMarket, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = Migration(market)
    charge = migration.answer().receipt.charge
    channel, next_market = (
        market.channel_of(PAYER),
        Counterparty(OPERATOR.account, migration.next.address("Settlement"), market.settlement),
    )
    moved = migration.move()
    assert moved.amount == DEPOSIT * UNIT - charge
    with market.database.read() as tx:
        left = tx.chain.channel(channel)
        assert (left.balance, left.next_move_nonce) == (charge, 1)
        assert channel_balance(tx, channel, datetime.now(UTC)).available == 0

    # The next installation reads the same vault, and can spend what moved.
    Indexer(migration.next, sqlite_database.event_log, migration.next.deployment, 0).catch_up()
    with sqlite_database.begin() as tx:
        there = next_market.channel(PAYER.account)
        tx.channels.add_held_key(there, SESSION_KEY.account)
        assert channel_balance(tx, there, datetime.now(UTC)).available == moved.amount

    assert market.settler().run_once(is_forced=True).step is Step.COMMITTING
    market.pump()
    with market.database.read() as tx:
        assert (tx.chain.channel(channel).balance, tx.chain.channel(channel).collected) == (0, charge)
    with pytest.raises(StakeLocked):
        migration.membership.restake(migration.next.address("OperatorRegistry"), LOCAL_STAKE)
    market.sleep(WINDOW)
    assert market.settler().finalise() == 1
    market.pump()
    run_guide(migration, monkeypatch)
    market.pump()
    assert migration.stakes() == (LOCAL_STAKE - RESTAKED, RESTAKED)

    before, earned = market.dollars(CREATOR.account), market.auditor().follow(OPERATOR.account).balances
    market.claims().relay(OPERATOR.account, CREATOR.account)
    market.pump()
    assert market.dollars(CREATOR.account) - before == earned[CREATOR.account] // UNIT > 0
