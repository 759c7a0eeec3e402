"""`deployments/<chainId>.json`: where a public market is, and the transactions that made it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from backend.deployment.journal import write_durably
from backend.domain.deployment import Deployment
from backend.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from backend.domain.ids import Account, Hash32


@dataclass(frozen=True, slots=True)
class Record:
    """What is published of a deployment; a `Deployment` file with more in it. Nothing in it is trusted by the
    check but the addresses: the rest says where on the chain the proof is, and whom to expect there.
    """

    chain_id: int
    block_number: int
    """Of the first contract: events are read from it on."""
    block_hash: Hash32
    addresses: Mapping[str, Account]
    blocks: Mapping[str, int]
    """Contract -> block that has it since."""
    transactions: Mapping[str, Hash32]
    """Contract -> transaction that created it."""
    profile: str
    deployer: Account
    guardians: tuple[Account, ...]
    curators: tuple[Account, ...]
    """Who should hold these roles: at first those of the terms. To be edited when governance changes them."""
    terms: Hash32
    """Digest of the terms deployed on."""

    @property
    def deployment(self) -> Deployment:
        return Deployment(self.chain_id, self.block_number, self.block_hash, self.addresses)


def write_record(record: Record, path: Path) -> None:
    write_durably(path, json.dumps(asdict(record), indent=2, sort_keys=True) + "\n")


def read_record(path: Path) -> Record:
    """`NotFound` without the file, `InvalidInput` when it is something else."""
    if not path.is_file():
        raise NotFound(f"no deployment record {path}", param="deployment")
    try:
        raw = json.loads(path.read_text())
        record = Record(
            **raw | {"guardians": tuple(raw["guardians"]), "curators": tuple(raw["curators"])},
        )
        for account in (*record.addresses.values(), *record.guardians, *record.curators, record.deployer):
            if len(account) != 42 or account != account.lower():
                raise ValueError(f"{account} is not a lower-case address")  # noqa: TRY301 - told like the rest
        for number in (record.chain_id, record.block_number, *record.blocks.values()):
            if type(number) is not int:
                raise TypeError(f"{number!r} is not a number")  # noqa: TRY301
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path} is not a deployment record: {error!r}", param="deployment") from error
    return record
