"""Seeds an installation with payers, held session keys and one adapter of many contributors.

Its view of the chain is written from events, as the indexer would do; there is no chain.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.db.migrate import upgrade
from backend.deployment.deployment_file import save_deployment
from backend.domain.chain import BlockRef, ChainEvent
from backend.domain.content import cid_of
from backend.domain.deployment import LOCAL_CHAIN_ID, Deployment
from backend.domain.hashing import version_id
from backend.installation.base_model import BaseModelInfo
from backend.installation.installation import Installation
from backend.settings import Settings
from benchmarks.api import chain_events
from tools.labels import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.ids import Account, ChannelId
    from backend.domain.receipt import VersionRecord

CONTRACTS = (
    *("DatasetRegistry", "AdapterRegistry", "PaymentVault", "Parameters", "OperatorRegistry"),
    *("Settlement", "Disputes", "MarketGovernor", "TestUSD"),
)
NUM_PAYERS = 100


@dataclass(frozen=True, slots=True)
class ApiPayer:
    """A payer with a funded channel, and the secret of an API key."""

    account: Account
    channel: ChannelId
    secret: str
    key_id: str


@dataclass(frozen=True, slots=True)
class SeededMarket:
    """The seeded adapter's name, and the payers who may request it."""

    model: str
    payers: tuple[ApiPayer, ...]


def build_settings(home: Path, **changes: Any) -> Settings:
    # The view of the chain does not advance, so its allowed age must exceed the run.
    return Settings(home=home, max_lag_seconds=7 * 86_400, **changes)


def create_home(home: Path) -> None:
    """Create the files of a new installation in `home`."""
    home.mkdir(parents=True)
    addresses = {name: some_account(name) for name in CONTRACTS}
    save_deployment(Deployment(LOCAL_CHAIN_ID, 1, some_hash("block 1"), addresses), home / "deployment.json")
    Installation(build_settings(home)).save_base_model(BaseModelInfo("base", some_hash("base"), str(home)))


def seed(installation: Installation, num_contributors: int, *versions: VersionRecord) -> SeededMarket:
    """Migrate the database and add `versions` (one adapter by default) and `NUM_PAYERS` payers with an API
    key each.
    """
    upgrade(installation.database.engine)
    counterparty, versions = (
        installation.counterparty,
        versions or (chain_events.version_record("adapter", num_contributors),),
    )
    events = [chain_events.contribution_recorded(index) for index in range(num_contributors)]
    events += [chain_events.contribution_admitted(index) for index in range(num_contributors)]
    events += [
        chain_events.snapshot_frozen(num_contributors),
        *map(chain_events.version_registered, versions),
    ]
    payers = [some_account(f"payer {number}") for number in range(NUM_PAYERS)]
    channels = {payer: counterparty.channel(payer) for payer in payers}
    expiry = int(time.time()) + 86_400
    for payer, channel in channels.items():
        events += chain_events.channel_opened(payer, channel, *counterparty.pair, expiry)
    with installation.database.begin() as tx:
        append_block(tx, events, 2)
        for channel in channels.values():
            tx.channels.add_held_key(channel, chain_events.session_key(channel))
    # Empty folders: without an attribution index all contributions count alike.
    for folder in {cid_of(version.cid_digest) for version in versions}:
        (installation.settings.home / "adapters" / folder).mkdir(parents=True)
    keys = {payer: installation.api_keys.create(payer, "benchmark") for payer in payers}
    seeded = (ApiPayer(p, channel, keys[p].secret, keys[p].key.id) for p, channel in channels.items())
    return SeededMarket(version_id(versions[0]), tuple(seeded))


def append_block(tx: UnitOfWork, events: Sequence[chain_events.Event], number: int) -> None:
    """Index a block with these events, which is of now."""
    named, parent = (some_hash(f"block {one}") for one in (number, number - 1))
    block = BlockRef(number, named, parent, int(time.time()))
    sent = some_hash("transaction")
    found = [
        ChainEvent(block.number, block.hash, index, sent, block.timestamp, *event)
        for index, event in enumerate(events)
    ]
    tx.event_log.append(found, block)
