"""Checks of what an operator must have on the chain to earn. `/ready` leaves them out, as no answer fails
without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.errors import Conflict
from backend.installation.readiness import Part

if TYPE_CHECKING:
    from backend.installation.installation import Installation


def _check_can_settle(installation: Installation) -> None:
    if obstacles := installation.membership.status().obstacles:
        raise Conflict(f"The operator cannot settle: {'; '.join(obstacles)}.")


def _check_is_sold(installation: Installation) -> None:
    for base in installation.bases:
        installation.catalogue.resolve(base.name)
    with installation.database.read() as tx:
        installation.training_payments.check_registered(tx.chain)


OPERATOR_PARTS: tuple[Part[Installation], ...] = (
    Part(
        "operator",
        _check_can_settle,
        "The operator's status on the chain cannot be read.",
        "Run `loraledger operator show` for its status.",
    ),
    Part(
        "base",
        _check_is_sold,
        "The records by which the base models are sold cannot be read.",
        "Run `loraledger operator base --prices PROMPT COMPLETION` to register the prices of the base "
        "models and of training on them; they are valid once `loraledger index` has indexed them.",
    ),
)
