"""Runs all checks of a deployed market."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from backend.deployment.checks.code import check_code, check_creation, check_domains
from backend.deployment.checks.parameters import check_governance, check_parameters, check_times
from backend.deployment.checks.reader import Finding, MarketReader, UnreadableError, error_at
from backend.deployment.checks.references import check_references
from backend.deployment.checks.roles import (
    check_manager_members,
    check_manager_rules,
    check_scheduled,
    check_timelock,
)
from backend.deployment.checks.terms import check_distribution, check_terms
from backend.deployment.checks.votes import check_deployer, check_votes
from backend.deployment.record import check_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.chain.node import Node
    from backend.deployment.record import Record
    from backend.deployment.terms import Terms

CHECKS: tuple[Callable[[MarketReader], Iterator[Finding]], ...] = (
    check_code,
    check_creation,
    check_domains,
    check_references,
    check_manager_members,
    check_manager_rules,
    check_timelock,
    check_scheduled,
    check_parameters,
    check_times,
    check_governance,
    check_votes,
    check_deployer,
)


def check_market(node: Node, record: Record, terms: Terms | None = None) -> list[Finding]:
    """Check a market against its record, the build and, if given, its terms. Every check runs.

    Errors: as of `check_chain`.
    """
    check_chain(node, record)
    market = MarketReader(node, record)
    checks = list(CHECKS)
    if terms is not None:
        checks += [partial(check, terms=terms) for check in (check_terms, check_distribution)]
    return [finding for check in checks for finding in _run(check, market)]


def _run(check: Callable[[MarketReader], Iterator[Finding]], market: MarketReader) -> Iterator[Finding]:
    try:
        yield from check(market)
    except UnreadableError as error:
        yield error_at(error.param or "market", error.message)
