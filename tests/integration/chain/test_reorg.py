"""Reorganisations of a real node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.chain.indexer import Indexer
from backend.chain.keys import LocalSigner, local_account
from backend.domain.ids import ZERO_ACCOUNT
from tests.support.chain_events import state_hash
from tests.support.databases import chain_database
from tools.wallet import transact

if TYPE_CHECKING:
    from backend.chain.client import ChainClient
    from backend.db.unit_of_work import Database
    from backend.domain.ids import Hash32

ALICE, BOB, OPERATOR = local_account(3), local_account(4), local_account(1)
CONFIRMATIONS = 1
NO_GRANT = (ZERO_ACCOUNT, 0, 0)


def index(chain: ChainClient, database: Database) -> tuple[int, Hash32]:
    Indexer(chain, database.event_log, chain.deployment, CONFIRMATIONS).catch_up()
    with database.read() as tx:
        return tx.event_log.num_events(), state_hash(tx)


def deposit(chain: ChainClient, payer: LocalSigner, units: int) -> None:
    vault, settlement = chain.address("PaymentVault"), chain.address("Settlement")
    transact(chain, payer, "TestUSD", "approve", vault, units)
    transact(chain, payer, "PaymentVault", "deposit", OPERATOR.account, settlement, units, NO_GRANT)


def balances(database: Database) -> dict[str, int]:
    """Token units by payer."""
    with database.read() as tx:
        return {c.payer: c.balance // 10**6 for c in tx.chain.channels(operator=OPERATOR.account)}


def test_a_reorg_ends_in_the_state_of_a_fresh_replay(chain: ChainClient, database: Database) -> None:
    request = chain.node.rpc.request
    deposit(chain, ALICE, 100)
    index(chain, database)
    fork = request("evm_snapshot")
    deposit(chain, ALICE, 20)
    deposit(chain, BOB, 3)
    request("hardhat_mine", "0x2")
    before = index(chain, database)
    assert balances(database) == {ALICE.account: 120, BOB.account: 3}

    request("evm_revert", fork)
    deposit(chain, BOB, 50)
    request("hardhat_mine", "0x8")
    after = index(chain, database)
    assert after != before
    assert balances(database) == {ALICE.account: 100, BOB.account: 50}
    with chain_database() as fresh:
        assert index(chain, fresh) == after


def test_an_index_is_exact_against_the_chain(chain: ChainClient, sqlite_database: Database) -> None:
    deposit(chain, ALICE, 7)
    chain.node.rpc.request("hardhat_mine", "0x2")
    index(chain, sqlite_database)
    with sqlite_database.read() as tx:
        (channel,) = tx.chain.channels(payer=ALICE.account)
        operator = tx.chain.operator(OPERATOR.account)
        parameters = tx.chain.parameter_set(0)
    on_chain = chain.call("PaymentVault", "channelOf", channel.id)
    assert (channel.balance, channel.collected) == (on_chain["balance"], on_chain["collected"])
    assert operator is not None
    assert operator.keys == (local_account(2).account,)
    assert operator.stake == chain.call("OperatorRegistry", "stakeOf", operator.account)["stake"]
    assert parameters is not None
    assert parameters.fee_ppm == chain.call("Parameters", "current")["feePpm"]
