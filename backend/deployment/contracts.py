"""The contracts of a market: in what order they are made, who they name, who may do what.

Deployment, hand-over and the check of a deployed market all read these tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.chain.contracts import interface
from backend.deployment.terms import TIMELOCK
from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.ids import ZERO_ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backend.deployment.deployer import Deployer
    from backend.deployment.terms import Holder, Terms
    from backend.domain.ids import Account

ADMIN, GUARDIAN, CURATOR = 0, 1, 2
"""Roles of the access manager, as in `contracts/libraries/Roles.sol`; the administrator is the timelock."""
ROLE_NAMES = {ADMIN: "administrator", GUARDIAN: "guardian", CURATOR: "curator"}
ROLE_OF_FUNCTION = {("Parameters", "pauseCommits"): GUARDIAN, ("DatasetRegistry", "review"): CURATOR}
"""Every restricted function that is not the administrator's."""
GENERATION = ("OperatorRegistry", "Settlement", "Disputes")
"""Created one right after the other, each told the addresses of those to come."""

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
            dict(terms.first_set) | {"treasury": resolve(terms.treasury, at)},
        ),
    ),
    ("DatasetRegistry", lambda at, _me, _: (at["AccessManager"],)),
    ("AdapterRegistry", lambda at, _me, _: (at["DatasetRegistry"], at["Parameters"])),
    (
        "OperatorRegistry",
        lambda at, _me, terms: (
            terms.payment_token,
            terms.unstake_seconds,
            at["Settlement"],
            at["Disputes"],
        ),
    ),
    ("Settlement", lambda at, _me, _: (at["Parameters"], at["OperatorRegistry"], at["Disputes"])),
    ("Disputes", lambda at, _me, _: (at["Settlement"], at["OperatorRegistry"], at["AdapterRegistry"])),
    ("Generation", lambda at, _me, _: (at["Disputes"], at["AdapterRegistry"])),
)
"""In order: contract, and its constructor's arguments from the addresses so far, deployer and terms."""
CONTRACTS = tuple(contract for contract, _ in CREATIONS)
"""All contracts of a market, the payment token aside."""

NAMED = {
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
"""Getter -> the contract that it must name, wherever a contract of ours has that getter."""
NAMED_BY = {("MarketGovernor", "token"): "MarketToken"}
"""The exceptions to `NAMED`."""


def named_by(contract: str) -> dict[str, str]:
    """Getter -> contract: all that the contract says of others."""
    getters = [f.name for f in interface(contract).functions if not f.inputs and _is_address(f.outputs)]
    return {getter: NAMED_BY.get((contract, getter), NAMED[getter]) for getter in getters}


def _is_address(outputs: list[dict[str, Any]]) -> bool:
    return [output["type"] for output in outputs] == ["address"]


def resolve(holder: Holder, at: Mapping[str, Account]) -> Account:
    return at["TimelockController"] if holder == TIMELOCK else holder


def create_market(deployer: Deployer, terms: Terms) -> None:
    """All contracts, tokens handed out, and only the timelock stays administrator. Safe to run again with the
    same journal.
    """
    at = deployer.addresses
    for contract, arguments in CREATIONS:
        if contract == GENERATION[0]:
            deployer.foresee(GENERATION)
        deployer.create(contract, *arguments(at, deployer.account, terms))
    for holder, amount in terms.distribution.items():
        deployer.send("MarketToken", "transfer", resolve(holder, at), amount)
    _hand_over(deployer, terms)


def _hand_over(deployer: Deployer, terms: Terms) -> None:
    """Governance runs the market; the deployer's own powers end here."""
    at, me = deployer.addresses, deployer.account
    for role in ("PROPOSER_ROLE", "CANCELLER_ROLE"):
        deployer.send(
            "TimelockController", "grantRole", deployer.ask("TimelockController", role), at["MarketGovernor"]
        )
    admin = deployer.ask("TimelockController", "DEFAULT_ADMIN_ROLE")
    deployer.send("TimelockController", "renounceRole", admin, me)
    for (contract, function), role_id in ROLE_OF_FUNCTION.items():
        selector = interface(contract).selector(function)
        deployer.send("AccessManager", "setTargetFunctionRole", at[contract], [selector], role_id)
    deployer.send("AccessManager", "grantRole", GUARDIAN, terms.guardian, 0)
    for curator in terms.curators:
        deployer.send("AccessManager", "grantRole", CURATOR, curator, 0)
    deployer.send("AccessManager", "grantRole", ADMIN, at["TimelockController"], 0)
    deployer.send("AccessManager", "renounceRole", ADMIN, me)
