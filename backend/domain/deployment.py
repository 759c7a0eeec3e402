"""Addresses of the contracts that an installation uses."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput, NotFound
from backend.domain.ids import Account, Hash32

if TYPE_CHECKING:
    from collections.abc import Mapping


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


_ADDRESS = re.compile("0x[0-9a-f]{40}")


def parse_deployment(text: bytes, source: str) -> Deployment:
    """Parse a deployment file or the record of a public market. `source` names it in errors.

    Errors: `InvalidInput`.
    """
    try:
        raw = json.loads(text)
        addresses = {str(name): Account(address) for name, address in raw["addresses"].items()}
        deployment = Deployment(
            int(raw["chain_id"]), int(raw["block_number"]), Hash32(raw["block_hash"]), addresses
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidInput(
            f"{source} is not a deployment file: {error!r}", param="deployment_file"
        ) from error
    for name, address in addresses.items():
        if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
            raise InvalidInput(
                f"{source} is not a deployment file: {name} is {address!r}, not a lower-case address",
                param="deployment_file",
            )
    return deployment
