"""Chain-agnostic ids of EVM chains (CAIP-2) and of accounts on them (CAIP-10)."""

from __future__ import annotations

import re

from backend.domain.errors import InvalidInput
from backend.domain.ids import Account

NAMESPACE = "eip155"
ACCOUNT = re.compile(rf"(?:{NAMESPACE}:([0-9]{{1,20}}):)?(0x[0-9a-fA-F]{{40}})")
"""An address, alone or after its chain."""


def chain_name(chain_id: int) -> str:
    """CAIP-2 identifier; `eip155:1` is Ethereum."""
    return f"{NAMESPACE}:{chain_id}"


def account_name(chain_id: int, account: Account) -> str:
    """CAIP-10 identifier `eip155:1:0x...`, with the address in lower case, as everywhere in the API."""
    return f"{chain_name(chain_id)}:{account}"


def account_of(text: str, chain_id: int) -> Account:
    """Parse an address or a CAIP-10 identifier. Errors: `InvalidInput`, also for another chain."""
    found = ACCOUNT.fullmatch(text)
    if found is None:
        raise InvalidInput(f"not an account (0x and 40 hex digits, or {chain_name(chain_id)}: before them)")
    if found[1] is not None and int(found[1]) != chain_id:
        raise InvalidInput(f"an account of chain {chain_name(int(found[1]))}; this is {chain_name(chain_id)}")
    return Account(found[2].lower())
