"""The check reports each single harm to a deployed market."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.contracts import interface
from backend.chain.node import Node
from backend.chain.rpc import RpcError
from backend.deployment.builds import load_build
from backend.deployment.checks.market import check_market
from backend.deployment.checks.reader import read_logs
from backend.deployment.contracts import CONTRACTS, GUARDIAN
from backend.deployment.profiles import DAY, OP_STACK, PROFILE_OF_CHAIN
from backend.deployment.quorum import TOKEN
from backend.deployment.terms import TIMELOCK
from backend.domain.errors import InvalidInput
from backend.domain.hashing import keccak
from backend.domain.ids import Hash32
from tests.support.deployment import DEPLOYER, HOLDERS, OUTSIDER, acting, deploy, fund
from tests.support.deployment_faults import BREAKS, TERMS, UNUSED, DeployedMarket, grant
from tests.support.servers import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.chain.local_node import LocalNode


@pytest.fixture(scope="module")
def deployed_market(
    hardhat_node: LocalNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DeployedMarket]:
    with snapshot(hardhat_node.url):
        node = Node.connect(hardhat_node.url)
        record = deploy(node, tmp_path_factory.mktemp("deployments"), TERMS)
        for holder in HOLDERS:
            acting(node, record, holder).send("MarketToken", "delegate", holder.account)
        yield DeployedMarket(node, record)
        node.close()


@pytest.fixture
def market(deployed_market: DeployedMarket, hardhat_node: LocalNode) -> Iterator[DeployedMarket]:
    with snapshot(hardhat_node.url):
        yield deployed_market


def test_a_market_with_delegated_votes_has_no_findings(market: DeployedMarket) -> None:
    assert market.found() == []


@pytest.mark.parametrize("harm", BREAKS)
def test_the_check_reports_each_harm(market: DeployedMarket, harm: str) -> None:
    breaks, expected = BREAKS[harm]
    breaks(market)
    found = market.found()
    for part in expected:
        assert any(part in line for line in found), found
    assert all(any(part in line for part in expected) for line in found), found


def test_a_warning_alone_is_no_error(market: DeployedMarket) -> None:
    BREAKS["commits are paused"][0](market)
    assert [line.split(":")[0] for line in market.found()] == ["warning"]


def test_a_missing_extension_for_late_votes_is_reported(market: DeployedMarket) -> None:
    """Uses a real vote, because only the governor can change that rule."""
    calls = [interface("MarketGovernor").function("setLateQuorumVoteExtension", (0,)).encode((0,))]
    description = "No extension"
    proposer, voter, _ = (acting(market.node, market.record, holder) for holder in HOLDERS)
    _pass(market, 2)
    proposer.send("MarketGovernor", "propose", [market.at("MarketGovernor")], [0], calls, description)
    digest = keccak(description.encode())
    proposal = ([market.at("MarketGovernor")], [0], calls, digest)
    number = proposer.call("MarketGovernor", "hashProposal", *proposal)
    _pass(market, DAY + 1)
    proposer.send("MarketGovernor", "castVote", number, 1)
    voter.send("MarketGovernor", "castVote", number, 1)
    _pass(market, 5 * DAY)
    proposer.send("MarketGovernor", "queue", *proposal)
    assert market.found() == []  # it is in the timelock, by a vote
    _pass(market, 2 * DAY)
    acting(market.node, market.record, OUTSIDER).send("MarketGovernor", "execute", *proposal)
    found = market.found()
    assert "error: MarketGovernor: lateQuorumExtension is 0 s, below 86400 s" in found


def _pass(market: DeployedMarket, seconds: int) -> None:
    market.node.rpc.request("evm_increaseTime", seconds)
    market.node.rpc.request("hardhat_mine", "0x1")


def test_a_contract_with_a_wrong_creating_transaction_is_reported(market: DeployedMarket) -> None:
    sent = dict(market.record.transactions)
    swapped = sent | {"Parameters": sent["PaymentVault"]}
    (line,) = market.found(transactions=swapped)
    assert "error: Parameters" in line
    assert "did not create" in line
    del sent["Settlement"]
    (line,) = market.found(transactions=sent)
    assert line == "error: Settlement: the record does not name the transaction that created it"


def test_a_record_cannot_hide_roles_granted_before_its_block(market: DeployedMarket) -> None:
    grant(GUARDIAN)(market)
    market.node.rpc.request("hardhat_mine", "0x5")
    late = dict.fromkeys(market.record.blocks, market.node.head().number)
    found = market.found(blocks=late)
    assert f"error: AccessManager: {OUTSIDER.account} is guardian, and should not be" in found
    assert any("was created in block" in line for line in found)


def test_an_unknown_creating_transaction_is_reported(market: DeployedMarket) -> None:
    sent = {**market.record.transactions, "Parameters": Hash32("0x" + "77" * 32)}
    (line,) = market.found(transactions=sent)
    assert line.startswith("error: Parameters: the node does not have 0x7777")


def test_guardians_that_differ_from_the_terms_are_reported(market: DeployedMarket) -> None:
    grant(GUARDIAN)(market)
    (line,) = market.found(guardians=(*market.record.guardians, OUTSIDER.account))
    assert line.startswith("error: record: its guardians are")


def test_a_contract_with_another_constructor_is_reported(market: DeployedMarket) -> None:
    """Same code, but its storage could hold anything."""
    runtime = load_build("AccessManager").runtime
    size = len(runtime).to_bytes(2, "big")
    creation = bytes.fromhex("61") + size + bytes.fromhex("80600a3d393df3") + runtime
    fund(market.node, DEPLOYER.account)
    market.node.rpc.request("hardhat_impersonateAccount", DEPLOYER.account)
    fields = {"from": DEPLOYER.account, "data": "0x" + creation.hex()}
    tx_hash = Hash32(market.node.rpc.request("eth_sendTransaction", fields))
    tx_receipt = market.node.tx_receipt(tx_hash)
    assert tx_receipt is not None
    assert tx_receipt.contract_address is not None
    found = market.found(
        addresses={**market.record.addresses, "AccessManager": tx_receipt.contract_address},
        transactions={**market.record.transactions, "AccessManager": tx_hash},
    )
    assert f"error: AccessManager: {tx_hash} did not run the build's constructor" in found
    assert not any("error: AccessManager: the code" in line for line in found)


def test_another_deployer_is_reported(market: DeployedMarket) -> None:
    found = market.found(deployer=OUTSIDER.account)
    assert f"error: AccessManager: was created by {DEPLOYER.account}, not by the record's deployer" in found


def test_a_contract_missing_in_the_record_is_reported(market: DeployedMarket) -> None:
    addresses = dict(market.record.addresses)
    del addresses["Disputes"]
    assert "error: Disputes: the record has no Disputes" in market.found(addresses=addresses)


def test_each_difference_from_the_terms_is_reported(market: DeployedMarket) -> None:
    first, second, third = (holder.account for holder in HOLDERS)
    terms = replace(
        TERMS,
        thaw_seconds=TERMS.thaw_seconds + 1,
        distribution={TIMELOCK: 550 * TOKEN, first: 150 * TOKEN, second: 300 * TOKEN},
    )
    lines = [str(finding) for finding in check_market(market.node, market.record, terms)]
    assert len(lines) == 3
    assert f"thawSeconds is {TERMS.thaw_seconds}, the terms say {TERMS.thaw_seconds + 1}" in lines[0]
    assert {lines[1], lines[2]} == {
        f"error: MarketToken: {second} was given 150, the terms say 300",
        f"error: MarketToken: {third} was given 150, the terms say 0",
    }


def test_later_transfers_do_not_affect_the_distribution(market: DeployedMarket) -> None:
    acting(market.node, market.record, HOLDERS[0]).send("MarketToken", "transfer", UNUSED, 10 * TOKEN)
    assert market.found() == []


@pytest.mark.parametrize("change", [{"chain_id": 5}, {"block_hash": "0x" + "12" * 32}])
def test_the_record_of_another_chain_is_refused(market: DeployedMarket, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="is not the deployment's"):
        market.found(**change)


def test_profile_local_on_a_public_chain_is_an_error(
    market: DeployedMarket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("backend.deployment.checks.parameters.LOCAL_CHAIN_ID", 1)
    terms = replace(TERMS, profile=0, first_set={**TERMS.first_set, "disputeWindow": 100})
    record = deploy(market.node, tmp_path, terms)
    found = [str(finding) for finding in check_market(market.node, record)]
    assert "error: Parameters: has profile `local`, with windows of seconds, on a public chain" in found


def test_a_profile_that_does_not_fit_the_chain_is_an_error(
    market: DeployedMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROFILE_OF_CHAIN, 31337, OP_STACK)
    found = [str(finding) for finding in check_market(market.node, market.record)]
    assert "error: Parameters: has profile `ethereum`, the chain needs `op-stack`" in found


def test_logs_are_read_in_ranges_that_the_node_accepts(
    market: DeployedMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, at = market.node, market.at("AccessManager")
    whole = read_logs(node, at, 0, node.head().number)
    asked = node.logs

    def few(addresses: list[Any], first: int, last: int) -> list[Any]:
        if last - first > 3:
            raise RpcError("eth_getLogs", {"message": "range too large"})
        return asked(addresses, first, last)

    monkeypatch.setattr(node, "logs", few)
    assert read_logs(node, at, 0, node.head().number) == whole
    assert len(whole) > 5


def test_every_contract_is_checked_for_its_code(market: DeployedMarket) -> None:
    for contract in CONTRACTS:
        market.put_code(contract, "0x00")
    found = market.found()
    for contract in CONTRACTS:
        assert any(line.startswith(f"error: {contract}: the code at") for line in found)
