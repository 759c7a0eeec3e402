"""Where the contracts of one installation live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.ids import Account, Hash32


LOCAL_CHAIN_ID = 31337
"""Hardhat's and anvil's: the only chain on which well-known keys and windows of seconds are accepted."""


PAYMENT_TOKEN = "PaymentToken"  # noqa: S105 - a contract's name
"""The ERC-20 in which payers deposit, whichever that is."""
LOCAL_TOKEN = "TestUSD"  # noqa: S105 - a contract's name
"""It serves as the payment token where a deployment names no other."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One generation of contracts. `block_hash` tells this chain from another one with the same id."""

    chain_id: int
    block_number: int
    """Block with the first contract: events are read from it on."""
    block_hash: Hash32
    addresses: Mapping[str, Account]
    """Contract name -> address."""

    def address(self, contract: str) -> Account:
        is_local = contract == PAYMENT_TOKEN and contract not in self.addresses
        try:
            return self.addresses[LOCAL_TOKEN if is_local else contract]
        except KeyError:
            raise NotFound(
                f"the deployment has no contract {contract}",
                param="contract",
                details={"known": sorted(self.addresses)},
            ) from None
