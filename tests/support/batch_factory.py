"""Builds registries, payers, honest receipts and honest batches, with or without a chain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.domain.batch import OperatorLedger, build
from backend.domain.errors import InvalidInput
from backend.domain.hashing import (
    TypedDomain,
    accepted_hash,
    channel_id,
    snapshot_id,
    version_id,
)
from backend.domain.ids import ZERO_HASH, Account, ChannelId, DatanetId, SnapshotId, VersionId
from backend.domain.money import PPM
from backend.domain.receipt import Receipt, Share, SignedReceipt, Slice, VersionRecord
from backend.domain.registries import Contribution, Snapshot
from backend.domain.rules import Rules, to_position
from tests.support.market import CHAIN_ID, METHOD, Key, parameter_set, recover, some_account, some_hash
from tools.receipts import new_receipt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from backend.domain.batch import Batch
    from backend.domain.hashing import TypedDomain as Domain
    from backend.domain.parameters import ParameterSet
    from backend.ports.keys import Recover, Signer

LONG = 256
"""Number of contributions of the largest version, all accepted: the maximum of an attribution list."""


@dataclass
class BatchFactory:
    """Builds honest batches of one operator. Implements `Registry` and `Facts` for judge and proofs."""

    operator: Account
    receipt_key: Signer
    domain: Domain
    payers: Sequence[Signer]
    terms: ParameterSet
    recover: Recover
    records: list[VersionRecord] = field(default_factory=list)
    registered: dict[VersionId, int] = field(default_factory=dict)
    snapshots: dict[SnapshotId, Snapshot] = field(default_factory=dict)
    contributions: dict[tuple[int, int], Contribution] = field(default_factory=dict)
    served_at: int = 1_790_000_000
    claimed: dict[Account, int] = field(default_factory=dict)
    """What each account claimed from the operator so far."""

    # Registry and facts

    def version(self, version: VersionId) -> VersionRecord | None:
        return next((r for r in self.records if version_id(r) == version), None)

    def registered_at(self, version: VersionId) -> int | None:
        return self.registered.get(version)

    def snapshot(self, snapshot: SnapshotId) -> Snapshot | None:
        return self.snapshots.get(snapshot)

    def contribution(self, datanet: DatanetId, index: int) -> Contribution | None:
        return self.contributions.get((datanet, index))

    def contributor_of(self, snapshot: SnapshotId, index: int) -> Account | None:
        known = self.snapshots[snapshot]
        return self.contributions[known.datanet, index].contributor if index in known.accepted else None

    def parameter_set(self, number: int) -> ParameterSet | None:
        return self.terms if number == self.terms.id else None

    def signed_for(self, receipt: Receipt, signature: str, committed_at: int = 0) -> Account | None:
        try:
            signer = self.recover(self.domain.receipt_digest(receipt), signature)
        except InvalidInput:
            return None
        return self.operator if signer == self.receipt_key.account else None

    def claimed_of(self, operator: Account, account: Account) -> int:
        return self.claimed.get(account, 0) if operator == self.operator else 0

    def is_signed(self, signed: SignedReceipt) -> bool:
        return self.signed_for(signed.receipt, signed.signature) == self.operator

    # Building the registries

    def add_snapshot(
        self, datanet: int, contributors: Sequence[Account], accepted: Sequence[bool]
    ) -> SnapshotId:
        """Add a snapshot of all contributions of a datanet; content hashes derive from datanet and index."""
        count, digest = len(accepted), accepted_hash(accepted)
        snapshot = snapshot_id(DatanetId(datanet), count, digest)
        kept = tuple(i for i, bit in enumerate(accepted) if bit)
        self.snapshots[snapshot] = Snapshot(snapshot, DatanetId(datanet), count, digest, kept, 1)
        for index, contributor in enumerate(contributors):
            self.contributions[datanet, index] = Contribution(
                datanet=DatanetId(datanet),
                index=index,
                contributor=contributor,
                content_hash=some_hash(f"content {datanet} {index}"),
                cid_digest=some_hash(f"folder {datanet} {index}"),
                licence=some_hash("licence"),
                num_rows=10,
                is_accepted=accepted[index],
                reason=0,
                recorded_at=1,
                block_number=1,
            )
        return snapshot

    def add_version(
        self, name: str, creator: Account, snapshots: tuple[SnapshotId, ...], prices: tuple[int, int]
    ) -> VersionRecord:
        is_adapter = bool(snapshots)
        record = VersionRecord(
            creator=creator,
            name=name,
            adapter_digest=some_hash(name) if is_adapter else ZERO_HASH,
            cid_digest=some_hash("folder") if is_adapter else ZERO_HASH,
            base_model=some_hash("base"),
            snapshots=snapshots,
            prompt_price=prices[0],
            completion_price=prices[1],
            operator_ppm=100_000,
            creator_ppm=200_001,
        )
        self.records.append(record)
        self.registered[version_id(record)] = 1
        return record

    # Serving

    def channel(self, payer: Signer) -> ChannelId:
        return channel_id(payer.account, self.operator, self.domain.contract)

    def serve(self, random: Random, channel: ChannelId, begins: int) -> SignedReceipt:
        """A random receipt that starts at cumulative `begins`: blends, ties, one or many contributors."""
        count = random.choice([1, 1, 2, len(self.records)])
        records = random.sample(self.records, min(count, 4))
        weights = parts(random, len(records))
        slices = tuple(
            Slice(version_id(r), weight, self.shares(random, r))
            for r, weight in zip(records, weights, strict=True)
        )
        while True:
            tokens = random.choice([(1, 1), (random.randint(1, 50), random.randint(0, 50))])
            receipt = new_receipt(channel, begins, METHOD, slices, records, tokens, served_at=self.served_at)
            if receipt.charge:
                return self.signed(receipt, slices)

    def signed(self, receipt: Receipt, slices: tuple[Slice, ...]) -> SignedReceipt:
        return SignedReceipt(
            receipt, METHOD, slices, self.receipt_key.sign(self.domain.receipt_digest(receipt))
        )

    def shares(self, random: Random, record: VersionRecord) -> tuple[Share, ...]:
        positions = [
            to_position(n, index)
            for n, snapshot in enumerate(record.snapshots)
            for index in self.snapshots[snapshot].accepted
        ]
        if not positions:
            return ()
        count = min(len(positions), random.choice([1, 2, 3, LONG]))
        chosen = sorted(random.sample(positions, count))
        return tuple(map(Share, chosen, parts(random, count)))

    def batch(self, random: Random, ledger: OperatorLedger, count: int) -> Batch:
        """An honest batch of `count` receipts; some channels waive an interval before their first receipt."""
        lines = {self.channel(payer): 0 for payer in self.payers} | dict(ledger.collected)
        waived = {channel: random.choice([0, 0, 7]) for channel in lines}
        receipts: list[SignedReceipt] = []
        for _ in range(count):
            channel = random.choice(sorted(lines))
            begins = lines[channel] + waived.pop(channel, 0)
            receipts.append(self.serve(random, channel, begins))
            lines[channel] = receipts[-1].receipt.cumulative
        receipts.sort(key=lambda s: (s.receipt.channel_id, s.receipt.cumulative))
        return build(self.operator, ledger, self.terms, receipts, Rules(self))


def parts(random: Random, count: int) -> list[int]:
    """Split PPM into `count` positive parts; half of the time equal ones, so that the largest is a tie."""
    made = [PPM // count] * count
    if random.random() < 0.5:
        made = [random.randint(1, PPM // count) for _ in range(count)]
    made[random.randrange(count)] += PPM - sum(made)
    return made


def in_memory_factory(num_contributors: int = 5) -> BatchFactory:
    """A factory without a chain."""
    operator, receipt_key = some_account("operator"), Key("receipt key")
    domain = TypedDomain(CHAIN_ID, some_account("settlement"))
    payers = [Key(f"payer {n}") for n in range(3)]
    factory = BatchFactory(operator, receipt_key, domain, payers, parameter_set(1, fee_ppm=50_000), recover)
    names = [some_account(f"contributor {n}") for n in range(num_contributors - 2)]
    creator = some_account("creator")
    # The creator and the operator contribute too: one account in several roles.
    everybody = [creator, operator, *names]
    first = factory.add_snapshot(1, everybody, [n != 3 for n in range(num_contributors)])
    second = factory.add_snapshot(2, everybody[::-1], [True] * num_contributors)
    add_versions(factory, creator, first, second)
    return factory


def add_versions(factory: BatchFactory, creator: Account, first: SnapshotId, second: SnapshotId) -> None:
    """Register the versions that every factory offers."""
    factory.add_version("base", creator, (), (1, 2))
    factory.add_version("small", creator, (first,), (1, 0))
    factory.add_version("large", creator, (second,), (700_001, 1_300_003))
    factory.add_version("both", creator, (first, second), (3, 500))
