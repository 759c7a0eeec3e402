"""An installation's folder with payers, held session keys and one adapter of many contributors.

Its view of the chain is made from events, as the indexer would have written them; there is no chain.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.db.migrate import upgrade
from backend.deployment.local import save
from backend.domain.chain import BlockRef, ChainEvent
from backend.domain.content import cid_of
from backend.domain.deployment import LOCAL_CHAIN_ID, Deployment
from backend.domain.hashing import version_id
from backend.installation.installation import BaseFacts, Installation
from backend.settings import Settings
from benchmarks.api import told

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import Account, ChannelId
    from backend.domain.receipt import VersionRecord

CONTRACTS = (
    *("DatasetRegistry", "AdapterRegistry", "PaymentVault", "Parameters", "OperatorRegistry"),
    *("Settlement", "Disputes", "MarketGovernor", "TestUSD"),
)
NUM_PAYERS = 100


@dataclass(frozen=True, slots=True)
class Paying:
    """A payer with a funded channel, and the secret of an API key."""

    account: Account
    channel: ChannelId
    secret: str
    key_id: str


@dataclass(frozen=True, slots=True)
class Furnished:
    """What a run needs to know of the installation: the adapter's name and everybody who may ask it."""

    model: str
    payers: tuple[Paying, ...]


def settings(home: Path, **changes: Any) -> Settings:
    # The view of the chain does not move on: nothing is as old as it allows.
    return Settings(home=home, max_lag_seconds=7 * 86_400, **changes)


def found(home: Path) -> None:
    """The files that an installation begins with."""
    home.mkdir(parents=True)
    addresses = {name: told.some_account(name) for name in CONTRACTS}
    save(Deployment(LOCAL_CHAIN_ID, 1, told.some_hash("block 1"), addresses), home / "deployment.json")
    Installation(settings(home)).note_base(BaseFacts("base", told.some_hash("base"), str(home)))


def furnish(installation: Installation, num_contributors: int, *versions: VersionRecord) -> Furnished:
    """Migrate the database, tell it of `versions`, one adapter if none are given, and of `NUM_PAYERS` payers,
    each with an API key.
    """
    upgrade(installation.database.engine)
    market, versions = installation.market, versions or (told.version("adapter", num_contributors),)
    happened = [told.contributed(index) for index in range(num_contributors)]
    happened += [told.frozen(num_contributors), *map(told.registered, versions)]
    payers = [told.some_account(f"payer {number}") for number in range(NUM_PAYERS)]
    channels = {payer: market.channel(payer) for payer in payers}
    expiry = int(time.time()) + 86_400
    for payer, channel in channels.items():
        happened += told.opened(payer, channel, market.operator, market.collector, expiry)
    with installation.database.begin() as tx:
        cursor = BlockRef(2, told.some_hash("block 2"), told.some_hash("block 1"), int(time.time()))
        tx.event_log.append([_event(number, *one) for number, one in enumerate(happened)], cursor)
        for channel in channels.values():
            tx.channels.add_held_key(channel, told.session_key(channel))
    # Empty: without an attribution index every contribution counts alike.
    for folder in {cid_of(version.cid_digest) for version in versions}:
        (installation.settings.home / "adapters" / folder).mkdir(parents=True)
    keys = {payer: installation.api_keys.create(payer, "benchmark") for payer in payers}
    paying = (Paying(p, channel, keys[p].secret, keys[p].key.id) for p, channel in channels.items())
    return Furnished(version_id(versions[0]), tuple(paying))


def _event(number: int, contract: str, name: str, args: dict[str, Any]) -> ChainEvent:
    block = 2, told.some_hash("block 2")
    return ChainEvent(*block, number, told.some_hash("transaction"), int(time.time()), contract, name, args)
