"""Ways to harm a deployed market, each with the findings of the check."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from backend.chain.contracts import interface
from backend.deployment.builds import load_build
from backend.deployment.checks.market import check_market
from backend.deployment.contracts import CURATOR, GUARDIAN
from backend.deployment.profiles import DAY
from backend.deployment.quorum import TOKEN
from backend.domain.hashing import keccak, words
from backend.domain.ids import ZERO_ACCOUNT, ZERO_HASH, Account
from tests.support.deployment import DEPLOYER, HOLDERS, OUTSIDER, acting, fund, key, production_terms

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.chain.node import Node
    from backend.deployment.record import Record

TERMS = production_terms(Account("0x1c7d4b196cb0c7b01d743fbc6116a902379c7238"))


@dataclass(frozen=True)
class DeployedMarket:
    """A deployed market, and ways to harm it."""

    node: Node
    record: Record

    def at(self, contract: str) -> Account:
        return self.record.addresses[contract]

    def found(self, **changes: Any) -> list[str]:
        return [str(f) for f in check_market(self.node, replace(self.record, **changes), TERMS)]

    def send_as(self, account: Account, contract: str, function: str, *args: Any) -> None:
        """Send a transaction of an account without its key."""
        fund(self.node, account)
        self.node.rpc.request("hardhat_impersonateAccount", account)
        data = interface(contract).function(function, args).encode(args)
        fields = {"from": account, "to": self.at(contract), "data": "0x" + data.hex()}
        self.node.rpc.request("eth_sendTransaction", fields)

    def govern(self, contract: str, function: str, *args: Any) -> None:
        """Act as the timelock, as if by vote."""
        self.send_as(self.at("TimelockController"), contract, function, *args)

    def parameters(self) -> dict[str, Any]:
        current: dict[str, Any] = acting(self.node, self.record, OUTSIDER).call("Parameters", "current")
        return current

    def put_code(self, contract: str, code: str) -> None:
        self.node.rpc.request("hardhat_setCode", self.at(contract), code)

    def code(self, contract: str) -> str:
        code: str = self.node.rpc.request("eth_getCode", self.at(contract), "latest")
        return code

    def patch(self, contract: str, old: str, new: str) -> None:
        """Replace an immutable in the code."""
        code = self.code(contract)
        assert old in code
        self.put_code(contract, code.replace(old, new))


def word(value: int | str) -> str:
    return words(value).hex()


def grant(role: int) -> Callable[[DeployedMarket], None]:
    return lambda m: m.govern("AccessManager", "grantRole", role, OUTSIDER.account, 0)


def timelock_role(name: str, account: Account) -> Callable[[DeployedMarket], None]:
    def breaks(m: DeployedMarket) -> None:
        role = acting(m.node, m.record, OUTSIDER).call("TimelockController", name)
        m.govern("TimelockController", "grantRole", role, account)

    return breaks


def without_delegation(m: DeployedMarket) -> None:
    for holder in HOLDERS:
        acting(m.node, m.record, holder).send("MarketToken", "delegate", ZERO_ACCOUNT)


def without_treasury(m: DeployedMarket) -> None:
    """Find the storage slot by its value, independent of the layout."""
    for slot in range(10):
        place = "0x" + keccak(words(0, slot)).hex()
        held = m.node.rpc.request("eth_getStorageAt", m.at("Parameters"), place, "latest")
        if held.endswith(m.at("TimelockController")[2:]):
            emptied = held[:-40] + "00" * 20
            m.node.rpc.request("hardhat_setStorageAt", m.at("Parameters"), place, emptied)
            return
    raise AssertionError("no parameter set found in the storage")


def schedule_without_vote(m: DeployedMarket) -> None:
    call = (m.at("Parameters"), 0, b"", ZERO_HASH, ZERO_HASH, 2 * DAY)
    m.send_as(m.at("MarketGovernor"), "TimelockController", "schedule", *call)


def delays(m: DeployedMarket) -> None:
    m.govern("AccessManager", "setTargetAdminDelay", m.at("Parameters"), DAY)
    m.govern("AccessManager", "setGrantDelay", CURATOR, DAY)
    m.node.rpc.request("evm_increaseTime", 6 * DAY)  # such changes set in after five days
    m.node.rpc.request("hardhat_mine", "0x1")


def selector(function: str) -> bytes:
    return interface("Parameters").selector(function)


UNUSED = key("unused").account
BREAKS: dict[str, tuple[Callable[[DeployedMarket], None], tuple[str, ...]]] = {
    "an outsider may pause": (
        grant(GUARDIAN),
        (f"error: AccessManager: {OUTSIDER.account} is guardian, and should not be",),
    ),
    "an outsider may review": (
        grant(CURATOR),
        (f"error: AccessManager: {OUTSIDER.account} is curator, and should not be",),
    ),
    "an unknown role is held": (
        grant(7),
        (f"error: AccessManager: {OUTSIDER.account} is role 7, and should not be",),
    ),
    "the deployer kept the administrator's role": (
        lambda m: m.govern("AccessManager", "grantRole", 0, DEPLOYER.account, 0),
        ("error: AccessManager: the deployer is administrator, and should not be",),
    ),
    "the deployer kept the timelock": (
        timelock_role("DEFAULT_ADMIN_ROLE", DEPLOYER.account),
        ("error: TimelockController: the deployer is DEFAULT_ADMIN_ROLE, and should not be",),
    ),
    "an outsider proposes to the timelock": (
        timelock_role("PROPOSER_ROLE", OUTSIDER.account),
        (f"error: TimelockController: {OUTSIDER.account} is PROPOSER_ROLE, and should not be",),
    ),
    "an outsider cancels": (
        timelock_role("CANCELLER_ROLE", OUTSIDER.account),
        (f"error: TimelockController: {OUTSIDER.account} is CANCELLER_ROLE, and should not be",),
    ),
    "executors are mixed": (
        timelock_role("EXECUTOR_ROLE", OUTSIDER.account),
        ("error: TimelockController: EXECUTOR_ROLE is held by",),
    ),
    "the guardian is gone": (
        lambda m: m.govern("AccessManager", "revokeRole", GUARDIAN, TERMS.guardian),
        (f"error: AccessManager: {TERMS.guardian} is not guardian, and should be",),
    ),
    "the timelock is not administrator": (
        lambda m: m.govern("AccessManager", "renounceRole", 0, m.at("TimelockController")),
        ("error: AccessManager: 0x",),
    ),
    "the guardian may do more than pause": (
        lambda m: m.govern(
            "AccessManager", "setTargetFunctionRole", m.at("Parameters"), [selector("append")], GUARDIAN
        ),
        ("error: Parameters: append is for the guardian instead of the administrator",),
    ),
    "only governance may pause": (
        lambda m: m.govern(
            "AccessManager", "setTargetFunctionRole", m.at("Parameters"), [selector("pauseCommits")], 0
        ),
        ("error: Parameters: pauseCommits is for the administrator instead of the guardian",),
    ),
    "the guardian acts with a delay": (
        lambda m: m.govern("AccessManager", "grantRole", GUARDIAN, TERMS.guardian, DAY),
        (f"error: AccessManager: guardian {TERMS.guardian} can act only after a delay of {DAY} s",),
    ),
    "curators appoint curators": (
        lambda m: m.govern("AccessManager", "setRoleAdmin", CURATOR, CURATOR),
        ("error: AccessManager: getRoleAdmin(2) is role 2",),
    ),
    "the guardian cancels": (
        lambda m: m.govern("AccessManager", "setRoleGuardian", CURATOR, GUARDIAN),
        ("error: AccessManager: getRoleGuardian(2) is role 1",),
    ),
    "the parameters are closed": (
        lambda m: m.govern("AccessManager", "setTargetClosed", m.at("Parameters"), True),
        ("error: Parameters: is closed",),
    ),
    "changes of access take long": (
        delays,
        (
            "error: Parameters: its access can change only after 86400 s",
            "error: AccessManager: grants of role 2 take effect only after 86400 s",
        ),
    ),
    "an operation waits without a vote": (
        schedule_without_vote,
        ("error: TimelockController: operation 0x",),
    ),
    "the code is another's": (
        lambda m: m.put_code("PaymentVault", "0x" + load_build("TestUSD").runtime.hex()),
        (
            "error: PaymentVault: the code at",
            "error: PaymentVault: does not answer thawSeconds",
            "error: PaymentVault:",
        ),
    ),
    "one byte of the code is another": (
        lambda m: m.put_code("DatasetRegistry", m.code("DatasetRegistry")[:-2] + "00"),
        ("error: DatasetRegistry: the code at",),
    ),
    "there is no code": (
        lambda m: m.put_code("AdapterRegistry", "0x"),
        ("error: AdapterRegistry: there is no code at", "error: AdapterRegistry: does not answer"),
    ),
    "there is no payment token": (
        lambda m: m.put_code("PaymentToken", "0x"),
        ("error: PaymentToken: there is no code at",),
    ),
    "immutables were never written": (
        lambda m: m.put_code("PaymentVault", "0x" + load_build("PaymentVault").runtime.hex()),
        (
            "error: PaymentVault: signs for",
            f"error: PaymentVault: token is {ZERO_ACCOUNT}",
            "error: PaymentVault:",
        ),
    ),
    "the vault holds another token": (
        lambda m: m.patch("PaymentVault", m.at("PaymentToken")[2:], UNUSED[2:]),
        (f"error: PaymentVault: token is {UNUSED}, not the PaymentToken", f"{UNUSED}, the terms say"),
    ),
    "the settlement names other disputes": (
        lambda m: m.patch("Settlement", m.at("Disputes")[2:], UNUSED[2:]),
        (f"error: Settlement: disputes is {UNUSED}, not the Disputes",),
    ),
    "deposits thaw too early": (
        lambda m: m.patch("PaymentVault", word(14 * DAY), word(13 * DAY)),
        (
            "error: PaymentVault: thaws in 1123200 s; a collection may take 1123200 s",
            "thawSeconds is 1123200, the terms say",
        ),
    ),
    "the treasury is the zero address": (
        without_treasury,
        ("error: Parameters: the treasury is the zero address", f"treasury is {ZERO_ACCOUNT}, the terms"),
    ),
    "no votes are delegated": (
        without_delegation,
        ("error: MarketGovernor: 0 votes are delegated and the quorum is 200", "no account can propose"),
    ),
    "one delegate has the quorum": (
        lambda m: acting(m.node, m.record, HOLDERS[0]).send("MarketToken", "delegate", HOLDERS[1].account),
        (
            f"warning: MarketGovernor: {HOLDERS[1].account} reaches the quorum of 200 alone",
            f"warning: MarketGovernor: {HOLDERS[1].account} outvotes all others",
        ),
    ),
    "one holder could have the quorum": (
        lambda m: m.govern("MarketToken", "transfer", OUTSIDER.account, 250 * TOKEN),
        (f"warning: MarketToken: {OUTSIDER.account} holds 250, enough to reach the quorum alone",),
    ),
    "the deployer holds tokens": (
        lambda m: m.govern("MarketToken", "transfer", DEPLOYER.account, TOKEN),
        ("error: MarketToken: the deployer still holds 1",),
    ),
    "commits are paused": (
        lambda m: m.send_as(TERMS.guardian, "Parameters", "pauseCommits", DAY),
        ("warning: Parameters: commits are paused for",),
    ),
    "the timelock is short": (
        lambda m: m.govern("TimelockController", "updateDelay", 60),
        ("error: TimelockController: timelock is 60 s, below 86400 s", "the terms say 172800"),
    ),
    "a vote changed the fee": (
        lambda m: m.govern("Parameters", "append", 0, m.parameters() | {"feePpm": 1}),
        ("error: Parameters: feePpm is 1, the terms say 50000",),
    ),
}
