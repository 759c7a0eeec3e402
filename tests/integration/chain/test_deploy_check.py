"""A market is fine until one thing about it is changed; then the check names that thing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.checks.market import check_market
from backend.chain.checks.reading import all_logs
from backend.chain.contracts import interface
from backend.chain.deployer import artifact
from backend.chain.market import CONTRACTS, CURATOR, GUARDIAN
from backend.chain.node import Node
from backend.chain.quorum import TOKEN
from backend.chain.rpc import RpcError
from backend.chain.terms import TIMELOCK
from backend.domain.errors import InvalidInput
from backend.domain.hashing import keccak, words
from backend.domain.ids import ZERO_ACCOUNT, ZERO_HASH, Account, Hash32
from tests.support.deployment import (
    DEPLOYER,
    HOLDERS,
    STRANGER,
    acting,
    deploy,
    fund,
    key,
    production_terms,
)
from tests.support.servers import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from backend.chain.local_node import LocalNode
    from backend.chain.record import Record

TERMS = production_terms(Account("0x1c7d4b196cb0c7b01d743fbc6116a902379c7238"))
DAY = 86_400


@dataclass(frozen=True)
class Market:
    """A deployed market, and ways to harm it."""

    node: Node
    record: Record

    def at(self, contract: str) -> Account:
        return self.record.addresses[contract]

    def found(self, **changes: Any) -> list[str]:
        return [str(f) for f in check_market(self.node, replace(self.record, **changes), TERMS)]

    def send_as(self, account: Account, contract: str, function: str, *args: Any) -> None:
        """A transaction of an account whose key nobody has."""
        fund(self.node, account)
        self.node.rpc.request("hardhat_impersonateAccount", account)
        data = interface(contract).function(function, args).encode(args)
        fields = {"from": account, "to": self.at(contract), "data": "0x" + data.hex()}
        self.node.rpc.request("eth_sendTransaction", fields)

    def govern(self, contract: str, function: str, *args: Any) -> None:
        """As if a vote had decided it."""
        self.send_as(self.at("TimelockController"), contract, function, *args)

    def put_code(self, contract: str, code: str) -> None:
        self.node.rpc.request("hardhat_setCode", self.at(contract), code)

    def code(self, contract: str) -> str:
        code: str = self.node.rpc.request("eth_getCode", self.at(contract), "latest")
        return code

    def patch(self, contract: str, old: str, new: str) -> None:
        """Another immutable, the code around it as it is."""
        code = self.code(contract)
        assert old in code
        self.put_code(contract, code.replace(old, new))


@pytest.fixture(scope="module")
def deployed_market(hardhat_node: LocalNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with snapshot(hardhat_node.url):
        node = Node.connect(hardhat_node.url)
        record = deploy(node, tmp_path_factory.mktemp("deployments"), TERMS)
        for holder in HOLDERS:
            acting(node, record, holder).send("MarketToken", "delegate", holder.account)
        yield Market(node, record)
        node.close()


@pytest.fixture
def market(deployed_market: Market, hardhat_node: LocalNode) -> Iterator[Market]:
    with snapshot(hardhat_node.url):
        yield deployed_market


def word(value: int | str) -> str:
    return words(value).hex()


def test_a_deployed_market_whose_holders_delegated_is_fine(market: Market) -> None:
    assert market.found() == []


def grant(role: int) -> Callable[[Market], None]:
    return lambda m: m.govern("AccessManager", "grantRole", role, STRANGER.account, 0)


def timelock_role(name: str, account: Account) -> Callable[[Market], None]:
    def breaks(m: Market) -> None:
        role = acting(m.node, m.record, STRANGER).ask("TimelockController", name)
        m.govern("TimelockController", "grantRole", role, account)

    return breaks


def without_delegation(m: Market) -> None:
    for holder in HOLDERS:
        acting(m.node, m.record, holder).send("MarketToken", "delegate", ZERO_ACCOUNT)


def without_treasury(m: Market) -> None:
    """Found by its value: where the storage layout puts set 0 is the compiler's business."""
    for slot in range(10):
        place = "0x" + keccak(words(0, slot)).hex()
        held = m.node.rpc.request("eth_getStorageAt", m.at("Parameters"), place, "latest")
        if held.endswith(m.at("TimelockController")[2:]):
            emptied = held[:-40] + "00" * 20
            m.node.rpc.request("hardhat_setStorageAt", m.at("Parameters"), place, emptied)
            return
    raise AssertionError("no parameter set found in the storage")


def schedule_without_vote(m: Market) -> None:
    call = (m.at("Parameters"), 0, b"", ZERO_HASH, ZERO_HASH, 2 * DAY)
    m.send_as(m.at("MarketGovernor"), "TimelockController", "schedule", *call)


def delays(m: Market) -> None:
    m.govern("AccessManager", "setTargetAdminDelay", m.at("Parameters"), DAY)
    m.govern("AccessManager", "setGrantDelay", CURATOR, DAY)
    m.node.rpc.request("evm_increaseTime", 6 * DAY)  # such changes set in after five days
    m.node.rpc.request("hardhat_mine", "0x1")


def selector(function: str) -> bytes:
    return interface("Parameters").selector(function)


NOBODY = key("nobody").account
BREAKS: dict[str, tuple[Callable[[Market], None], tuple[str, ...]]] = {
    "a stranger may pause": (
        grant(GUARDIAN),
        (f"off: AccessManager: {STRANGER.account} is guardian, and should not be",),
    ),
    "a stranger may review": (
        grant(CURATOR),
        (f"off: AccessManager: {STRANGER.account} is curator, and should not be",),
    ),
    "a role of no meaning is held": (
        grant(7),
        (f"off: AccessManager: {STRANGER.account} is role 7, and should not be",),
    ),
    "the deployer kept the administrator's role": (
        lambda m: m.govern("AccessManager", "grantRole", 0, DEPLOYER.account, 0),
        ("off: AccessManager: the deployer is administrator, and should not be",),
    ),
    "the deployer kept the timelock": (
        timelock_role("DEFAULT_ADMIN_ROLE", DEPLOYER.account),
        ("off: TimelockController: the deployer is DEFAULT_ADMIN_ROLE, and should not be",),
    ),
    "a stranger proposes to the timelock": (
        timelock_role("PROPOSER_ROLE", STRANGER.account),
        (f"off: TimelockController: {STRANGER.account} is PROPOSER_ROLE, and should not be",),
    ),
    "a stranger cancels": (
        timelock_role("CANCELLER_ROLE", STRANGER.account),
        (f"off: TimelockController: {STRANGER.account} is CANCELLER_ROLE, and should not be",),
    ),
    "executors are mixed": (
        timelock_role("EXECUTOR_ROLE", STRANGER.account),
        ("off: TimelockController: EXECUTOR_ROLE is held by",),
    ),
    "the guardian is gone": (
        lambda m: m.govern("AccessManager", "revokeRole", GUARDIAN, TERMS.guardian),
        (f"off: AccessManager: {TERMS.guardian} is not guardian, and should be",),
    ),
    "the timelock is not administrator": (
        lambda m: m.govern("AccessManager", "renounceRole", 0, m.at("TimelockController")),
        ("off: AccessManager: 0x",),
    ),
    "the guardian may do more than pause": (
        lambda m: m.govern(
            "AccessManager", "setTargetFunctionRole", m.at("Parameters"), [selector("setFee")], GUARDIAN
        ),
        ("off: Parameters: setFee is for the guardian instead of the administrator",),
    ),
    "nobody but governance may pause": (
        lambda m: m.govern(
            "AccessManager", "setTargetFunctionRole", m.at("Parameters"), [selector("pauseCommits")], 0
        ),
        ("off: Parameters: pauseCommits is for the administrator instead of the guardian",),
    ),
    "the guardian acts with a delay": (
        lambda m: m.govern("AccessManager", "grantRole", GUARDIAN, TERMS.guardian, DAY),
        (f"off: AccessManager: guardian {TERMS.guardian} can act only {DAY} s after",),
    ),
    "curators appoint curators": (
        lambda m: m.govern("AccessManager", "setRoleAdmin", CURATOR, CURATOR),
        ("off: AccessManager: getRoleAdmin(2) is role 2",),
    ),
    "the guardian cancels": (
        lambda m: m.govern("AccessManager", "setRoleGuardian", CURATOR, GUARDIAN),
        ("off: AccessManager: getRoleGuardian(2) is role 1",),
    ),
    "the parameters are closed": (
        lambda m: m.govern("AccessManager", "setTargetClosed", m.at("Parameters"), True),
        ("off: Parameters: is closed",),
    ),
    "changes of access take long": (
        delays,
        (
            "off: Parameters: its access can change only after 86400 s",
            "off: AccessManager: grants of role 2 take effect only after 86400 s",
        ),
    ),
    "an operation waits without a vote": (
        schedule_without_vote,
        ("off: TimelockController: operation 0x",),
    ),
    "the code is another's": (
        lambda m: m.put_code("PaymentVault", artifact("TestUSD")["deployedBytecode"]),
        (
            "off: PaymentVault: the code at",
            "off: PaymentVault: does not answer thawSeconds",
            "off: PaymentVault:",
        ),
    ),
    "one byte of the code is another": (
        lambda m: m.put_code("DatasetRegistry", m.code("DatasetRegistry")[:-2] + "00"),
        ("off: DatasetRegistry: the code at",),
    ),
    "there is no code": (
        lambda m: m.put_code("AdapterRegistry", "0x"),
        ("off: AdapterRegistry: there is no code at", "off: AdapterRegistry: does not answer"),
    ),
    "there is no payment token": (
        lambda m: m.put_code("PaymentToken", "0x"),
        ("off: PaymentToken: there is no code at",),
    ),
    "immutables were never written": (
        lambda m: m.put_code("PaymentVault", artifact("PaymentVault")["deployedBytecode"]),
        ("off: PaymentVault: signs for", f"off: PaymentVault: token is {ZERO_ACCOUNT}", "off: PaymentVault:"),
    ),
    "the vault holds another token": (
        lambda m: m.patch("PaymentVault", m.at("PaymentToken")[2:], NOBODY[2:]),
        (f"off: PaymentVault: token is {NOBODY}, not the PaymentToken", f"{NOBODY}, the terms say"),
    ),
    "the settlement names other disputes": (
        lambda m: m.patch("Settlement", m.at("Disputes")[2:], NOBODY[2:]),
        (f"off: Settlement: disputes is {NOBODY}, not the Disputes",),
    ),
    "deposits thaw too early": (
        lambda m: m.patch("PaymentVault", word(13 * DAY), word(12 * DAY)),
        (
            "off: PaymentVault: thaws in 1036800 s; a collection may take 1036800 s",
            "thawSeconds is 1036800, the terms say",
        ),
    ),
    "stakes are free too early": (
        lambda m: m.patch("OperatorRegistry", word(9 * DAY), word(7 * DAY)),
        ("off: OperatorRegistry: frees stakes in 604800 s", "unstakeSeconds is 604800, the terms say"),
    ),
    "the treasury is nobody": (
        without_treasury,
        ("off: Parameters: the treasury is the zero address", f"treasury is {ZERO_ACCOUNT}, the terms"),
    ),
    "nobody delegated": (
        without_delegation,
        ("off: MarketGovernor: 0 votes are delegated and the quorum is 200", "nobody can propose"),
    ),
    "one delegate has the quorum": (
        lambda m: acting(m.node, m.record, HOLDERS[0]).send("MarketToken", "delegate", HOLDERS[1].account),
        (
            f"warning: MarketGovernor: {HOLDERS[1].account} reaches the quorum of 200 alone",
            f"warning: MarketGovernor: {HOLDERS[1].account} outvotes all others",
        ),
    ),
    "one holder could have the quorum": (
        lambda m: m.govern("MarketToken", "transfer", STRANGER.account, 250 * TOKEN),
        (f"warning: MarketToken: {STRANGER.account} holds 250, enough for the quorum",),
    ),
    "the deployer holds tokens": (
        lambda m: m.govern("MarketToken", "transfer", DEPLOYER.account, TOKEN),
        ("off: MarketToken: the deployer still holds 1",),
    ),
    "commits are paused": (
        lambda m: m.send_as(TERMS.guardian, "Parameters", "pauseCommits", DAY),
        ("warning: Parameters: commits are paused for",),
    ),
    "the timelock is short": (
        lambda m: m.govern("TimelockController", "updateDelay", 60),
        ("off: TimelockController: timelock is 60 s, below 86400 s", "the terms say 172800"),
    ),
    "a vote changed the fee": (
        lambda m: m.govern("Parameters", "setFee", 1),
        ("off: Parameters: feePpm is 1, the terms say 50000",),
    ),
}


@pytest.mark.parametrize("harm", BREAKS)
def test_the_check_names_what_was_broken(market: Market, harm: str) -> None:
    breaks, expected = BREAKS[harm]
    breaks(market)
    found = market.found()
    for part in expected:
        assert any(part in line for line in found), found
    assert all(any(part in line for part in expected) for line in found), found


def test_a_warning_alone_is_not_off(market: Market) -> None:
    BREAKS["commits are paused"][0](market)
    assert [line.split(":")[0] for line in market.found()] == ["warning"]


def test_late_votes_without_an_extension_are_named(market: Market) -> None:
    """By a real vote: only the governor itself can change that rule."""
    calls = [interface("MarketGovernor").function("setLateQuorumVoteExtension", (0,)).encode((0,))]
    description = "No extension"
    proposer, voter, _ = (acting(market.node, market.record, holder) for holder in HOLDERS)
    _pass(market, 2)
    proposer.send("MarketGovernor", "propose", [market.at("MarketGovernor")], [0], calls, description)
    digest = keccak(description.encode())
    proposal = ([market.at("MarketGovernor")], [0], calls, digest)
    number = proposer.ask("MarketGovernor", "hashProposal", *proposal)
    _pass(market, DAY + 1)
    proposer.send("MarketGovernor", "castVote", number, 1)
    voter.send("MarketGovernor", "castVote", number, 1)
    _pass(market, 5 * DAY)
    proposer.send("MarketGovernor", "queue", *proposal)
    assert market.found() == []  # it waits in the timelock, by a vote
    _pass(market, 2 * DAY)
    acting(market.node, market.record, STRANGER).send("MarketGovernor", "execute", *proposal)
    found = market.found()
    assert "off: MarketGovernor: lateQuorumExtension is 0 s, below 86400 s" in found


def _pass(market: Market, seconds: int) -> None:
    market.node.rpc.request("evm_increaseTime", seconds)
    market.node.rpc.request("hardhat_mine", "0x1")


def test_a_contract_that_another_transaction_created_is_named(market: Market) -> None:
    sent = dict(market.record.transactions)
    swapped = sent | {"Parameters": sent["PaymentVault"]}
    (line,) = market.found(transactions=swapped)
    assert "off: Parameters" in line
    assert "did not create" in line
    del sent["Settlement"]
    (line,) = market.found(transactions=sent)
    assert line == "off: Settlement: the record does not name the transaction that created it"


def test_a_contract_that_another_constructor_left_is_named(market: Market) -> None:
    """Same code, but its storage could hold anything."""
    runtime = bytes.fromhex(artifact("AccessManager")["deployedBytecode"][2:])
    size = len(runtime).to_bytes(2, "big")
    creation = bytes.fromhex("61") + size + bytes.fromhex("80600a3d393df3") + runtime
    deployer = acting(market.node, market.record, DEPLOYER)
    tx_hash = market.node.rpc.request("hardhat_impersonateAccount", DEPLOYER.account) and (
        market.node.rpc.request(
            "eth_sendTransaction", {"from": DEPLOYER.account, "data": "0x" + creation.hex()}
        )
    )
    tx_receipt = market.node.tx_receipt(Hash32(tx_hash))
    assert tx_receipt is not None
    assert tx_receipt.contract_address is not None
    deployer.addresses["AccessManager"] = tx_receipt.contract_address
    found = market.found(
        addresses=deployer.addresses, transactions={**market.record.transactions, "AccessManager": tx_hash}
    )
    assert f"off: AccessManager: {tx_hash} did not run the build's constructor" in found
    assert not any("off: AccessManager: the code" in line for line in found)


def test_another_deployer_than_the_records_is_named(market: Market) -> None:
    found = market.found(deployer=STRANGER.account)
    assert f"off: AccessManager: was created by {DEPLOYER.account}, not by the record's deployer" in found


def test_a_record_without_a_contract_is_named(market: Market) -> None:
    addresses = dict(market.record.addresses)
    del addresses["Disputes"]
    assert "off: Disputes: the record has no Disputes" in market.found(addresses=addresses)


def test_other_terms_than_the_deployments_are_named_one_by_one(market: Market) -> None:
    first, second, third = (holder.account for holder in HOLDERS)
    terms = replace(
        TERMS,
        unstake_seconds=TERMS.unstake_seconds + 1,
        distribution={TIMELOCK: 550 * TOKEN, first: 150 * TOKEN, second: 300 * TOKEN},
    )
    lines = [str(finding) for finding in check_market(market.node, market.record, terms)]
    assert len(lines) == 3
    assert "unstakeSeconds is 777600, the terms say 777601" in lines[0]
    assert {lines[1], lines[2]} == {
        f"off: MarketToken: {second} was given 150, the terms say 300",
        f"off: MarketToken: {third} was given 150, the terms say 0",
    }


def test_what_holders_did_with_their_tokens_changes_nothing_about_the_distribution(market: Market) -> None:
    acting(market.node, market.record, HOLDERS[0]).send("MarketToken", "transfer", NOBODY, 10 * TOKEN)
    assert market.found() == []


@pytest.mark.parametrize("change", [{"chain_id": 5}, {"block_hash": "0x" + "12" * 32}])
def test_the_record_of_another_chain_is_refused(market: Market, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="is not the deployment's"):
        market.found(**change)


def test_profile_local_on_a_public_chain_is_off(
    market: Market, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("backend.chain.checks.rules.LOCAL_CHAIN_ID", 1)
    terms = replace(TERMS, profile=0, first_set={**TERMS.first_set, "disputeWindow": 100})
    record = deploy(market.node, tmp_path, terms)
    found = [str(finding) for finding in check_market(market.node, record)]
    assert "off: Parameters: has profile `local`, with windows of seconds, on a public chain" in found


def test_logs_are_read_in_pieces_where_the_node_allows_no_more(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, at = market.node, market.at("AccessManager")
    whole = all_logs(node, at, 0, node.head().number)
    asked = node.logs

    def few(addresses: list[Account], first: int, last: int) -> list[Any]:
        if last - first > 3:
            raise RpcError("eth_getLogs", {"message": "range too large"})
        return asked(addresses, first, last)

    monkeypatch.setattr(node, "logs", few)
    assert all_logs(node, at, 0, node.head().number) == whole
    assert len(whole) > 5


def test_every_contract_is_checked_for_its_code(market: Market) -> None:
    for contract in CONTRACTS:
        market.put_code(contract, "0x00")
    found = market.found()
    for contract in CONTRACTS:
        assert any(line.startswith(f"off: {contract}: the code at") for line in found)
