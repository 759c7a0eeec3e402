"""The record of a public market, `deployments/<chainId>.json`: addresses and creating transactions."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from backend.disk.files import write_durably
from backend.domain.deployment import Deployment
from backend.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from backend.chain.node import Node
    from backend.domain.ids import Account, Hash32


@dataclass(frozen=True, slots=True)
class Record:
    """A published deployment; the file is also a deployment file.

    The check trusts only its addresses. The other fields name the transactions to verify on the chain and the
    accounts to expect in each role.
    """

    chain_id: int
    block_number: int
    """Block of the first contract, from which events are read."""
    block_hash: Hash32
    addresses: Mapping[str, Account]
    blocks: Mapping[str, int]
    """Contract -> block of its creation."""
    transactions: Mapping[str, Hash32]
    """Contract -> transaction that created it."""
    profile: str
    deployer: Account
    guardians: tuple[Account, ...]
    curators: tuple[Account, ...]
    """Expected holders of the roles, at first those of the terms. Edit them when governance changes them."""
    terms: Hash32
    """Digest of the terms of the deployment."""

    @property
    def deployment(self) -> Deployment:
        return Deployment(self.chain_id, self.block_number, self.block_hash, self.addresses)


def write_record(record: Record, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, json.dumps(asdict(record), indent=2, sort_keys=True) + "\n")


def read_record(path: Path) -> Record:
    """Load a record. Errors: `NotFound`, `InvalidInput` if the file is not a record."""
    if not path.is_file():
        raise NotFound(f"no deployment record {path}", param="deployment")
    try:
        raw = json.loads(path.read_text())
        record = Record(
            **raw | {"guardians": tuple(raw["guardians"]), "curators": tuple(raw["curators"])},
        )
        for account in (*record.addresses.values(), *record.guardians, *record.curators, record.deployer):
            if len(account) != 42 or account != account.lower():
                raise ValueError(f"{account} is not a lower-case address")  # noqa: TRY301 - reported like the other errors
        for number in (record.chain_id, record.block_number, *record.blocks.values()):
            if type(number) is not int:
                raise TypeError(f"{number!r} is not a number")  # noqa: TRY301
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path} is not a deployment record: {error!r}", param="deployment") from error
    return record


def check_chain(node: Node, record: Record) -> None:
    """Errors: `InvalidInput` if the node is on another chain than the deployment. A local chain that was
    started again has the same id and other blocks.
    """
    block = node.block(record.block_number) if node.chain_id == record.chain_id else None
    if block is None or block.hash != record.block_hash:
        raise InvalidInput(
            f"the chain at {node.rpc.name} is not the deployment's: its id is {node.chain_id}, and its block "
            f"{record.block_number} is {'missing' if block is None else block.hash}. Set LORALEDGER_RPC_URL "
            "to a node of the deployment's chain, or move its record away if that chain is gone",
            param="deployment",
        )
