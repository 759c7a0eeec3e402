"""Chain-agnostic ids of EVM chains (CAIP-2) and of accounts on them (CAIP-10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.domain.ids import Account

NAMESPACE = "eip155"


def chain_name(chain_id: int) -> str:
    """`eip155:1` is Ethereum."""
    return f"{NAMESPACE}:{chain_id}"


def account_name(chain_id: int, account: Account) -> str:
    """`eip155:1:0x...`; the address stays in lower case, as everywhere in the API."""
    return f"{chain_name(chain_id)}:{account}"
