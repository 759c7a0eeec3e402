"""Who may do what: by all that was ever granted and revoked, not by whom one thinks to ask about."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from backend.chain.contracts import interface
from backend.deployment.checks.reading import Finding, off
from backend.deployment.contracts import ADMIN, CONTRACTS, CURATOR, GUARDIAN, ROLE_NAMES, ROLE_OF_FUNCTION
from backend.domain.ids import ZERO_ACCOUNT, Account

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backend.deployment.checks.reading import Reading

MANAGER, TIMELOCK, GOVERNOR = "AccessManager", "TimelockController", "MarketGovernor"


def check_manager_members(reading: Reading) -> Iterator[Finding]:
    record = reading.record
    expected = {
        ADMIN: {reading.at(TIMELOCK)},
        GUARDIAN: set(record.guardians),
        CURATOR: set(record.curators),
    }
    found = _members(reading, MANAGER, "roleId")
    for role in sorted(found.keys() | expected.keys()):
        name = ROLE_NAMES.get(role, f"role {role}")
        yield from _compare(MANAGER, name, found.get(role, set()), expected.get(role, set()), record.deployer)
        for account in sorted(found.get(role, set())):
            _, delay = reading.ask(MANAGER, "hasRole", role, account)
            if delay:
                yield off(MANAGER, f"{name} {account} can act only {delay} s after it announced to")


def check_manager_rules(reading: Reading) -> Iterator[Finding]:
    """Which role each function is for, who administers the roles, and that nothing is closed or delayed."""
    names = {account: contract for contract, account in reading.record.addresses.items()}
    expected = {
        (reading.at(contract), "0x" + interface(contract).selector(function).hex()): role
        for (contract, function), role in ROLE_OF_FUNCTION.items()
    }
    found: dict[tuple[Account, str], int] = {}
    for event in reading.events(MANAGER, "TargetFunctionRoleUpdated"):
        found[event.args["target"], event.args["selector"]] = event.args["roleId"]
    for target, selector in sorted(found.keys() | expected.keys()):
        has, should = (roles.get((target, selector), ADMIN) for roles in (found, expected))
        if has != should:
            function = _function(names.get(target), selector)
            roles = [ROLE_NAMES.get(role, f"role {role}") for role in (has, should)]
            yield off(
                names.get(target, target), f"{function} is for the {roles[0]} instead of the {roles[1]}"
            )
    yield from _administration(reading)


def _administration(reading: Reading) -> Iterator[Finding]:
    for event in reading.events(MANAGER, "RoleAdminChanged", "RoleGuardianChanged"):
        getter = "getRoleAdmin" if event.name == "RoleAdminChanged" else "getRoleGuardian"
        role = event.args["roleId"]
        if holder := reading.ask(MANAGER, getter, role):
            yield off(MANAGER, f"{getter}({role}) is role {holder}, not the administrator")
    for event in reading.events(MANAGER, "RoleGrantDelayChanged"):
        if delay := reading.ask(MANAGER, "getRoleGrantDelay", event.args["roleId"]):
            yield off(MANAGER, f"grants of role {event.args['roleId']} take effect only after {delay} s")
    for contract in CONTRACTS:
        if reading.ask(MANAGER, "isTargetClosed", reading.at(contract)):
            yield off(contract, "is closed: nobody can call its restricted functions")
        if delay := reading.ask(MANAGER, "getTargetAdminDelay", reading.at(contract)):
            yield off(contract, f"its access can change only after {delay} s")


def check_timelock(reading: Reading) -> Iterator[Finding]:
    """The governor alone proposes and cancels; it or anybody executes; the timelock alone grants."""
    governor, found = reading.at(GOVERNOR), _members(reading, TIMELOCK, "role")
    for name, expected in (
        ("DEFAULT_ADMIN_ROLE", {reading.at(TIMELOCK)}),
        ("PROPOSER_ROLE", {governor}),
        ("CANCELLER_ROLE", {governor}),
    ):
        members = found.pop(reading.ask(TIMELOCK, name), set())
        yield from _compare(TIMELOCK, name, members, expected, reading.record.deployer)
    executors = found.pop(reading.ask(TIMELOCK, "EXECUTOR_ROLE"), set())
    if executors not in ({ZERO_ACCOUNT}, {governor}):
        yield off(TIMELOCK, f"EXECUTOR_ROLE is held by {_list(executors)}, not by anybody or the governor")
    for role, members in found.items():
        if members:
            yield off(TIMELOCK, f"role {role}, which means nothing, is held by {_list(members)}")


def check_scheduled(reading: Reading) -> Iterator[Finding]:
    """An operation that waits in the timelock outlives the role of whoever put it there."""
    voted = {event.tx_hash for event in reading.events(GOVERNOR, "ProposalQueued")}
    for event in reading.events(TIMELOCK, "CallScheduled"):
        operation = event.args["id"]
        if event.tx_hash not in voted and reading.ask(TIMELOCK, "isOperationPending", operation):
            yield off(TIMELOCK, f"operation {operation} waits there without a vote")


def _members(reading: Reading, contract: str, role_field: str) -> dict[Any, set[Account]]:
    holders: dict[Any, set[Account]] = defaultdict(set)
    for event in reading.events(contract, "RoleGranted", "RoleRevoked"):
        members = holders[event.args[role_field]]
        (members.add if event.name == "RoleGranted" else members.discard)(event.args["account"])
    return holders


def _compare(
    contract: str, role: str, found: set[Account], expected: set[Account], deployer: Account
) -> Iterator[Finding]:
    for account in sorted(found - expected):
        who = "the deployer" if account == deployer else account
        yield off(contract, f"{who} is {role}, and should not be")
    for account in sorted(expected - found):
        yield off(contract, f"{account} is not {role}, and should be")


def _function(contract: str | None, selector: str) -> str:
    entry = contract and interface(contract).by_selector(bytes.fromhex(selector[2:]))
    return entry.name if entry else selector


def _list(accounts: Iterable[Account]) -> str:
    return ", ".join(sorted(accounts)) or "nobody"
