"""The contracts of a market: order of creation, constructor arguments, references, roles.

The deployment and the checks of a deployed market share these tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.chain.contracts import interface
from backend.deployment.profiles import LOCAL
from backend.deployment.terms import TIMELOCK
from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.ids import ZERO_ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backend.deployment.deployer import Deployer
    from backend.deployment.terms import Holder, Terms
    from backend.domain.ids import Account

ADMIN, GUARDIAN, CURATOR = 0, 1, 2
"""Role ids of the access manager, as in `contracts/libraries/Roles.sol`. The timelock is administrator."""
ROLE_NAMES = {ADMIN: "administrator", GUARDIAN: "guardian", CURATOR: "curator"}
ROLE_OF_FUNCTION = {("Parameters", "pauseCommits"): GUARDIAN, ("DatasetRegistry", "review"): CURATOR}
"""Restricted functions that another role than the administrator calls."""
GENERATION = ("OperatorRegistry", "Settlement", "Disputes")
"""Contracts that refer to each other; their addresses are predicted, so nothing may be sent in between."""

CREATIONS: tuple[tuple[str, Callable[[Mapping[str, Account], Account, Terms], tuple[Any, ...]]], ...] = (
    ("AccessManager", lambda _at, me, _: (me,)),
    ("MarketToken", lambda _at, me, terms: (me, terms.supply)),
    ("TimelockController", lambda _at, me, terms: (terms.timelock_seconds, [], [ZERO_ACCOUNT], me)),
    (
        "MarketGovernor",
        lambda at, _me, terms: (at["MarketToken"], at["TimelockController"], dict(terms.voting_rules)),
    ),
    ("PaymentVault", lambda _at, _me, terms: (terms.payment_token, terms.thaw_seconds)),
    (
        "Parameters",
        lambda at, _me, terms: (
            at["AccessManager"],
            terms.profile,
            at["PaymentVault"],
            dict(terms.first_set) | {"treasury": resolve_holder(terms.treasury, at)},
        ),
    ),
    ("DatasetRegistry", lambda at, _me, _: (at["AccessManager"],)),
    ("AdapterRegistry", lambda at, _me, _: (at["DatasetRegistry"], at["Parameters"])),
    ("OperatorRegistry", lambda at, _me, terms: (terms.payment_token, at["Settlement"])),
    ("Settlement", lambda at, _me, _: (at["Parameters"], at["OperatorRegistry"], at["Disputes"])),
    ("Disputes", lambda at, _me, _: (at["Settlement"], at["OperatorRegistry"], at["AdapterRegistry"])),
    ("Generation", lambda at, _me, _: (at["Disputes"], at["AdapterRegistry"])),
)
"""In order: contract, and its constructor arguments from known addresses, deployer and terms."""
CONTRACTS = tuple(contract for contract, _ in CREATIONS)
"""All contracts of a market except the payment token."""

LOCAL_BUILDS = {"Parameters": "LocalParameters"}
"""Contract -> the build that takes its place and its arguments on the local chain."""

REFERENCES = {
    "vault": "PaymentVault",
    "parameters": "Parameters",
    "operators": "OperatorRegistry",
    "settlement": "Settlement",
    "disputes": "Disputes",
    "datasets": "DatasetRegistry",
    "adapters": "AdapterRegistry",
    "authority": "AccessManager",
    "timelock": "TimelockController",
    "token": PAYMENT_TOKEN,
}
"""Getter -> the contract that it must return, in every contract that has the getter."""
REFERENCE_EXCEPTIONS = {("MarketGovernor", "token"): "MarketToken"}
"""(Contract, getter) -> contract, where it differs from `REFERENCES`."""


def references_of(contract: str) -> dict[str, str]:
    """Getter -> contract that it must return, for all getters of addresses."""
    getters = [f.name for f in interface(contract).functions if not f.inputs and _is_address(f.outputs)]
    return {getter: REFERENCE_EXCEPTIONS.get((contract, getter), REFERENCES[getter]) for getter in getters}


def _is_address(outputs: list[dict[str, Any]]) -> bool:
    return [output["type"] for output in outputs] == ["address"]


def resolve_holder(holder: Holder, at: Mapping[str, Account]) -> Account:
    """The address of a holder in the terms."""
    return at["TimelockController"] if holder == TIMELOCK else holder


def create_market(deployer: Deployer, terms: Terms) -> None:
    """Create all contracts, distribute the market tokens and make the timelock the only administrator.

    It can be repeated with the same journal.
    """
    at = deployer.addresses
    for contract, arguments in CREATIONS:
        if contract == GENERATION[0]:
            deployer.predict_addresses(GENERATION)
        build = LOCAL_BUILDS.get(contract, contract) if terms.profile == LOCAL else contract
        deployer.create(contract, *arguments(at, deployer.account, terms), build=build)
    for holder, amount in terms.distribution.items():
        deployer.send("MarketToken", "transfer", resolve_holder(holder, at), amount)
    _hand_over(deployer, terms)


def _hand_over(deployer: Deployer, terms: Terms) -> None:
    """Grant the roles of the terms and renounce the deployer's."""
    at, me = deployer.addresses, deployer.account
    for role in ("PROPOSER_ROLE", "CANCELLER_ROLE"):
        deployer.send(
            "TimelockController", "grantRole", deployer.call("TimelockController", role), at["MarketGovernor"]
        )
    admin = deployer.call("TimelockController", "DEFAULT_ADMIN_ROLE")
    deployer.send("TimelockController", "renounceRole", admin, me)
    for (contract, function), role_id in ROLE_OF_FUNCTION.items():
        selector = interface(contract).selector(function)
        deployer.send("AccessManager", "setTargetFunctionRole", at[contract], [selector], role_id)
    deployer.send("AccessManager", "grantRole", GUARDIAN, terms.guardian, 0)
    for curator in terms.curators:
        deployer.send("AccessManager", "grantRole", CURATOR, curator, 0)
    deployer.send("AccessManager", "grantRole", ADMIN, at["TimelockController"], 0)
    deployer.send("AccessManager", "renounceRole", ADMIN, me)
