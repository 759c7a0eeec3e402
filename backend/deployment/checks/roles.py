"""Checks who holds which role, from all grants and revocations ever logged."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from backend.chain.contracts import interface
from backend.deployment.checks.reader import Finding, error_at
from backend.deployment.contracts import ADMIN, CONTRACTS, CURATOR, GUARDIAN, ROLE_NAMES, ROLE_OF_FUNCTION
from backend.domain.ids import ZERO_ACCOUNT, Account

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backend.deployment.checks.reader import MarketReader

MANAGER, TIMELOCK, GOVERNOR = "AccessManager", "TimelockController", "MarketGovernor"


def check_manager_members(market: MarketReader) -> Iterator[Finding]:
    record = market.record
    expected = {
        ADMIN: {market.address(TIMELOCK)},
        GUARDIAN: set(record.guardians),
        CURATOR: set(record.curators),
    }
    found = _members(market, MANAGER, "roleId")
    for role in sorted(found.keys() | expected.keys()):
        name = ROLE_NAMES.get(role, f"role {role}")
        yield from _compare(MANAGER, name, found.get(role, set()), expected.get(role, set()), record.deployer)
        for account in sorted(found.get(role, set())):
            _, delay = market.call(MANAGER, "hasRole", role, account)
            if delay:
                yield error_at(MANAGER, f"{name} {account} can act only after a delay of {delay} s")


def check_manager_rules(market: MarketReader) -> Iterator[Finding]:
    """Check the role of each restricted function, the admins of roles, closed targets and delays."""
    names = {account: contract for contract, account in market.record.addresses.items()}
    expected = {
        (market.address(contract), "0x" + interface(contract).selector(function).hex()): role
        for (contract, function), role in ROLE_OF_FUNCTION.items()
    }
    found: dict[tuple[Account, str], int] = {}
    for event in market.events(MANAGER, "TargetFunctionRoleUpdated"):
        found[event.args["target"], event.args["selector"]] = event.args["roleId"]
    for target, selector in sorted(found.keys() | expected.keys()):
        role, expected_role = (roles.get((target, selector), ADMIN) for roles in (found, expected))
        if role != expected_role:
            function = _function(names.get(target), selector)
            role_names = [ROLE_NAMES.get(one, f"role {one}") for one in (role, expected_role)]
            yield error_at(
                names.get(target, target),
                f"{function} is for the {role_names[0]} instead of the {role_names[1]}",
            )
    yield from _administration(market)


def _administration(market: MarketReader) -> Iterator[Finding]:
    for event in market.events(MANAGER, "RoleAdminChanged", "RoleGuardianChanged"):
        getter = "getRoleAdmin" if event.name == "RoleAdminChanged" else "getRoleGuardian"
        role = event.args["roleId"]
        if holder := market.call(MANAGER, getter, role):
            yield error_at(MANAGER, f"{getter}({role}) is role {holder}, not the administrator")
    for event in market.events(MANAGER, "RoleGrantDelayChanged"):
        if delay := market.call(MANAGER, "getRoleGrantDelay", event.args["roleId"]):
            yield error_at(MANAGER, f"grants of role {event.args['roleId']} take effect only after {delay} s")
    for contract in CONTRACTS:
        if market.call(MANAGER, "isTargetClosed", market.address(contract)):
            yield error_at(contract, "is closed: its restricted functions cannot be called")
        if delay := market.call(MANAGER, "getTargetAdminDelay", market.address(contract)):
            yield error_at(contract, f"its access can change only after {delay} s")


def check_timelock(market: MarketReader) -> Iterator[Finding]:
    """Only the governor proposes and cancels, it or everyone executes, and only the timelock grants roles."""
    governor, found = market.address(GOVERNOR), _members(market, TIMELOCK, "role")
    for name, expected in (
        ("DEFAULT_ADMIN_ROLE", {market.address(TIMELOCK)}),
        ("PROPOSER_ROLE", {governor}),
        ("CANCELLER_ROLE", {governor}),
    ):
        members = found.pop(market.call(TIMELOCK, name), set())
        yield from _compare(TIMELOCK, name, members, expected, market.record.deployer)
    executors = found.pop(market.call(TIMELOCK, "EXECUTOR_ROLE"), set())
    if executors not in ({ZERO_ACCOUNT}, {governor}):
        yield error_at(
            TIMELOCK,
            f"EXECUTOR_ROLE is held by {_list(executors)}, not by the governor or everyone (address 0)",
        )
    for role, members in found.items():
        if members:
            yield error_at(TIMELOCK, f"role {role}, which has no meaning, is held by {_list(members)}")


def check_scheduled(market: MarketReader) -> Iterator[Finding]:
    """Find operations without a vote: they stay scheduled when their proposer loses its role."""
    voted = {event.tx_hash for event in market.events(GOVERNOR, "ProposalQueued")}
    for event in market.events(TIMELOCK, "CallScheduled"):
        operation = event.args["id"]
        if event.tx_hash not in voted and market.call(TIMELOCK, "isOperationPending", operation):
            yield error_at(TIMELOCK, f"operation {operation} is scheduled without a vote")


def _members(market: MarketReader, contract: str, role_field: str) -> dict[Any, set[Account]]:
    holders: dict[Any, set[Account]] = defaultdict(set)
    for event in market.events(contract, "RoleGranted", "RoleRevoked"):
        members = holders[event.args[role_field]]
        (members.add if event.name == "RoleGranted" else members.discard)(event.args["account"])
    return holders


def _compare(
    contract: str, role: str, found: set[Account], expected: set[Account], deployer: Account
) -> Iterator[Finding]:
    for account in sorted(found - expected):
        who = "the deployer" if account == deployer else account
        yield error_at(contract, f"{who} is {role}, and should not be")
    for account in sorted(expected - found):
        yield error_at(contract, f"{account} is not {role}, and should be")


def _function(contract: str | None, selector: str) -> str:
    entry = contract and interface(contract).by_selector(bytes.fromhex(selector[2:]))
    return entry.name if entry else selector


def _list(accounts: Iterable[Account]) -> str:
    return ", ".join(sorted(accounts)) or "no account"
