"""Deployments on production terms, resumed after a crash at any transaction."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import local_account
from backend.chain.node import Fees, Node
from backend.deployment.checks.market import check_market
from backend.deployment.contracts import CONTRACTS, PAYMENT_TOKEN
from backend.deployment.deploy import GAS, GAS_PER_HOLDER, launch
from backend.deployment.deployer import Deployer
from backend.deployment.local import deploy_local
from backend.deployment.profiles import ARBITRUM, BOUNDS, ETHEREUM, LOCAL, OP_STACK
from backend.deployment.record import read_record
from backend.domain.chain import BlockRef, Reverted
from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from backend.domain.ids import Account
from tests.support.deployment import (
    DEPLOYER,
    HOLDERS,
    OUTSIDER,
    acting,
    deploy,
    fund,
    production_terms,
    public_node,
    put_token,
)
from tests.support.servers import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from backend.chain.local_node import LocalNode

TOKEN_AT = Account("0x1c7d4b196cb0c7b01d743fbc6116a902379c7238")
TERMS = production_terms(TOKEN_AT)
NUM_STEPS = len(CONTRACTS) + len(TERMS.distribution) + 9


@pytest.fixture
def node(hardhat_node: LocalNode) -> Iterator[Node]:
    """A chain without earlier deployments of these tests."""
    with snapshot(hardhat_node.url):
        connected = Node.connect(hardhat_node.url)
        fund(connected, DEPLOYER.account)
        put_token(connected, TOKEN_AT)
        yield connected
        connected.close()


class KilledError(Exception):
    """Simulates the end of the process."""


class CrashingNode(Node):
    """Ends the run at its first broadcast, before or after the network receives the transaction."""

    is_after = False

    def broadcast(self, raw: str) -> None:
        if self.is_after:
            super().broadcast(raw)
        raise KilledError


def test_a_market_is_deployed_on_production_terms(node: Node, tmp_path: Path) -> None:
    begun = node.head().number
    record = deploy(node, tmp_path, TERMS)
    assert read_record(tmp_path / "31337.json") == record
    assert record.addresses.keys() == {*CONTRACTS, PAYMENT_TOKEN}
    assert record.blocks.keys() == record.transactions.keys() == set(CONTRACTS)
    assert record.block_number == min(record.blocks.values()) > begun
    market = acting(node, record, OUTSIDER)
    for holder in HOLDERS:
        assert market.call("MarketToken", "balanceOf", holder.account) == TERMS.distribution[holder.account]
    assert market.call("MarketToken", "balanceOf", DEPLOYER.account) == 0
    assert market.call("Parameters", "profile") == ETHEREUM
    assert not (tmp_path / "31337.journal.json").exists()


@pytest.mark.parametrize("profile", [ETHEREUM, OP_STACK, ARBITRUM])
def test_the_bounds_are_those_of_the_contracts(node: Node, tmp_path: Path, profile: int) -> None:
    record = deploy(node, tmp_path, replace(TERMS, profile=profile, first_set=_lawful(profile)))
    assert acting(node, record, OUTSIDER).call("Parameters", "bounds") == BOUNDS[profile]


@pytest.mark.parametrize(("window", "answer"), [(4, 1), (48, 6)])
def test_the_local_bounds_are_those_of_the_contracts(
    node: Node, hardhat_node: LocalNode, window: int, answer: int
) -> None:
    market = deploy_local(hardhat_node.url, dispute_window=window)
    sender = Deployer(node, OUTSIDER)
    sender.addresses = dict(market.addresses)
    assert sender.call("Parameters", "profile") == LOCAL
    times = {"answerSeconds": answer, "minDisputeWindow": 4 * answer}
    assert sender.call("Parameters", "bounds") == {**BOUNDS[LOCAL], **times}


def _lawful(profile: int) -> dict[str, int]:
    return {**TERMS.first_set, "disputeWindow": BOUNDS[profile]["maxDisputeWindow"]}


def test_a_deployment_killed_at_every_transaction_ends_like_an_uninterrupted_one(
    node: Node, hardhat_node: LocalNode, tmp_path: Path
) -> None:
    dying = CrashingNode.connect(hardhat_node.url)
    first = node.num_transactions(DEPLOYER.account)
    for number in range(NUM_STEPS):
        for dying.is_after in (False, True):
            with pytest.raises(KilledError):
                launch(dying, DEPLOYER, TERMS, tmp_path, 0)
            assert node.num_transactions(DEPLOYER.account) == first + number + dying.is_after
    record = launch(dying, DEPLOYER, TERMS, tmp_path, 0)
    assert node.num_transactions(DEPLOYER.account) == first + NUM_STEPS
    assert len(set(record.addresses.values())) == len(CONTRACTS) + 1
    assert _errors(node, record) == []
    dying.close()


def _errors(node: Node, record: Any) -> list[str]:
    """Findings except those about votes, which are not delegated yet."""
    found = check_market(node, record, TERMS)
    return [str(finding) for finding in found if finding.subject != "MarketGovernor"]


def test_running_again_sends_nothing(node: Node, tmp_path: Path) -> None:
    record = deploy(node, tmp_path, TERMS)
    sent = node.num_transactions(DEPLOYER.account)
    assert launch(node, DEPLOYER, TERMS, tmp_path, 0) == record
    assert node.num_transactions(DEPLOYER.account) == sent
    with pytest.raises(Conflict, match="records a market with other terms"):
        launch(node, DEPLOYER, replace(TERMS, supply=TERMS.supply + 1), tmp_path, 0)


def test_a_partial_deployment_continues_on_the_same_terms_only(node: Node, tmp_path: Path) -> None:
    _die_at(node, 6, tmp_path)
    with pytest.raises(Conflict, match=r"step 5 of .* is PaymentVault\.constructor"):
        launch(node, DEPLOYER, replace(TERMS, thaw_seconds=TERMS.thaw_seconds + 1), tmp_path, 0)
    fund(node, OUTSIDER.account)
    with pytest.raises(Conflict, match="belongs to another deployment"):
        launch(node, OUTSIDER, TERMS, tmp_path, 0)
    assert _errors(node, launch(node, DEPLOYER, TERMS, tmp_path, 0)) == []


def _die_at(node: Node, step: int, folder: Path, *, is_after: bool = False) -> None:
    """Run until transaction number `step`, counted from 0, is recorded, and sent if `is_after`."""
    left = step

    def broadcast(raw: str) -> None:
        nonlocal left
        if left:
            left -= 1
            Node.broadcast(node, raw)
            return
        if is_after:
            Node.broadcast(node, raw)
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node, "broadcast", broadcast)
        with pytest.raises(KilledError):
            launch(node, DEPLOYER, TERMS, folder, 0)


def test_an_underpriced_step_is_replaced_with_its_nonce(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _die_at(node, 3, tmp_path)
    nonce, usual = node.num_transactions(DEPLOYER.account), node.fees()
    dear = Fees(usual.max_fee * 3, usual.priority_fee)
    monkeypatch.setattr(node, "fees", lambda: dear)
    record = launch(node, DEPLOYER, TERMS, tmp_path, 0)
    tx = node.rpc.request("eth_getTransactionByHash", record.transactions["MarketGovernor"])
    assert (int(tx["nonce"], 16), int(tx["maxFeePerGas"], 16)) == (nonce, dear.max_fee)
    assert _errors(node, record) == []


@pytest.mark.parametrize("step", [3, CONTRACTS.index("Settlement")])
def test_a_key_that_sent_another_transaction_is_refused(node: Node, tmp_path: Path, step: int) -> None:
    """The recorded transaction can never be mined, but a lagging node looks the same, so nothing is sent."""
    _die_at(node, step, tmp_path)
    fields = {"from": DEPLOYER.account, "to": OUTSIDER.account, "value": "0x1"}
    node.rpc.request("hardhat_impersonateAccount", DEPLOYER.account)
    node.rpc.request("eth_sendTransaction", fields)
    sent = node.num_transactions(DEPLOYER.account)
    with pytest.raises(Conflict, match="the node refuses it"):
        launch(node, DEPLOYER, TERMS, tmp_path, 0)
    assert node.num_transactions(DEPLOYER.account) == sent


def test_a_contract_at_an_unpredicted_address_ends_the_deployment(node: Node, tmp_path: Path) -> None:
    _die_at(node, CONTRACTS.index("OperatorRegistry"), tmp_path, is_after=True)
    node.rpc.request("hardhat_impersonateAccount", DEPLOYER.account)
    node.rpc.request(
        "eth_sendTransaction", {"from": DEPLOYER.account, "to": OUTSIDER.account, "value": "0x1"}
    )
    with pytest.raises(Conflict, match="Settlement is not at the address"):
        launch(node, DEPLOYER, TERMS, tmp_path, 0)


class Reorganised(Node):
    """Drops its last blocks while a deployment waits for their confirmations, and grows again."""

    undo: Callable[[], None] | None = None

    def head(self) -> BlockRef:
        if self.undo:
            undo, self.undo = self.undo, None
            undo()
        self.rpc.request("hardhat_mine", "0xa")
        return super().head()


def test_dropped_transactions_are_sent_again_to_the_same_addresses(
    node: Node, hardhat_node: LocalNode, tmp_path: Path
) -> None:
    _die_at(node, 8, tmp_path)
    before = node.rpc.request("evm_snapshot")
    shaken = Reorganised.connect(hardhat_node.url)
    shaken.undo = lambda: _replace_blocks(node, before)
    record = launch(shaken, DEPLOYER, TERMS, tmp_path, confirmations=3)
    assert shaken.undo is None
    assert _errors(node, record) == []
    for contract, number in record.blocks.items():
        tx_receipt = node.tx_receipt(record.transactions[contract])
        assert tx_receipt is not None
        assert tx_receipt.block_number == number
    shaken.close()


def _replace_blocks(node: Node, before: str) -> None:
    node.rpc.request("evm_revert", before)
    node.rpc.request("hardhat_mine", "0x2")  # so that the same transactions come into other blocks


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"chain_id": 1}, InvalidInput, "the terms are for chain 1"),
        ({"guardian": DEPLOYER.account}, InvalidInput, "guardian is the deployer"),
        ({"curators": (DEPLOYER.account,)}, InvalidInput, "curators.0 is the deployer"),
        ({"distribution": {DEPLOYER.account: TERMS.supply}}, InvalidInput, "distribution is the deployer"),
        ({"payment_token": OUTSIDER.account}, NotFound, "no ERC-20"),
    ],
)
def test_impossible_deployments_are_refused_before_anything_is_sent(
    node: Node, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    sent = node.num_transactions(DEPLOYER.account)
    with pytest.raises(error, match=message):
        launch(node, DEPLOYER, replace(TERMS, **changes), tmp_path, 0)
    assert node.num_transactions(DEPLOYER.account) == sent


def test_finding10_a_token_without_six_decimals_is_refused_by_name(node: Node, tmp_path: Path) -> None:
    put_token(node, OUTSIDER.account, "MarketToken")
    with pytest.raises(InvalidInput, match=f"payment_token: {OUTSIDER.account} has 18 decimals"):
        launch(node, DEPLOYER, replace(TERMS, payment_token=OUTSIDER.account), tmp_path, 0)


def test_a_deployer_without_funds_learns_how_much_it_needs(node: Node, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has 0\.0000 of the chain's coin; a deployment needs up to \d"):
        launch(node, OUTSIDER, TERMS, tmp_path, 0)


def test_the_required_gas_is_close_to_the_used_gas(node: Node, tmp_path: Path) -> None:
    first = node.head().number
    deploy(node, tmp_path, TERMS)
    used = 0
    for number in range(first + 1, node.head().number + 1):
        for tx_hash in node.rpc.request("eth_getBlockByNumber", hex(number), False)["transactions"]:
            tx_receipt = node.tx_receipt(tx_hash)
            assert tx_receipt is not None
            used += tx_receipt.gas_used
    assert 0.85 < used / (GAS + GAS_PER_HOLDER * len(TERMS.distribution)) < 1


def test_a_constructors_revert_is_decoded(node: Node, tmp_path: Path) -> None:
    with pytest.raises(Reverted, match=r"PaymentVault\.constructor reverted: ThawTooLong"):
        launch(node, DEPLOYER, replace(TERMS, thaw_seconds=1 << 40), tmp_path, 0)


def test_compromised_keys_deploy_on_the_local_chain_only(tmp_path: Path) -> None:
    with public_node(tmp_path, chain_id=4242) as server:
        public = Node.connect(server.url)
        terms = production_terms(TOKEN_AT, chain_id=4242)
        put_token(public, TOKEN_AT)
        with pytest.raises(Forbidden, match="is public"):
            launch(public, local_account(0), terms, tmp_path, 0)
        assert public.num_transactions(local_account(0).account) == 0
        public.close()
