"""State of the transactions that visitors' wallets send themselves, for the script that follows them."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.deps import ServicesDep
from backend.api.schemas.common import HashField
from backend.domain.ids import Hash32
from backend.web.route import PageRoute
from backend.web.visitor import SignedInDep

router = APIRouter(prefix="/transactions", route_class=PageRoute)


@router.get("/{tx_hash}")
def get_state(tx_hash: HashField, services: ServicesDep, _visitor: SignedInDep) -> dict[str, str]:
    """As of the transactions that the operator sends: confirmed once this market shows the effects."""
    return {"state": services.registry.sent_by_wallet(Hash32(tx_hash))}
