"""Addresses of the contracts that an installation uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.ids import Account, Hash32


LOCAL_CHAIN_ID = 31337
"""Chain id of Hardhat and Anvil, the only chain with well-known keys and windows of seconds."""


PAYMENT_TOKEN = "PaymentToken"  # noqa: S105 - a contract's name
"""Name of the ERC-20 in which payers deposit."""
LOCAL_TOKEN = "TestUSD"  # noqa: S105 - a contract's name
"""The payment token of a deployment without an entry for `PAYMENT_TOKEN`."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One generation of contracts. `block_hash` identifies the chain beyond its id."""

    chain_id: int
    block_number: int
    """Block of the first contract, from which events are read."""
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
