"""A small market in memory: registries, an operator, and honest receipts, all derived from one seed."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from eth_keys.datatypes import PrivateKey, Signature

from backend.domain.batch import Batch, OperatorLedger, build
from backend.domain.disputes.witnesses import Tree, leaf_id
from backend.domain.errors import InvalidInput
from backend.domain.hashing import (
    TypedDomain,
    accepted_hash,
    channel_id,
    keccak,
    snapshot_id,
    to_bytes,
    version_id,
)
from backend.domain.ids import Account, ChannelId, DatanetId, Hash32, SnapshotId, VersionId
from backend.domain.money import PPM
from backend.domain.parameters import ParameterSet
from backend.domain.receipt import Receipt, Share, SignedReceipt, Slice, VersionRecord
from backend.domain.registries import Contribution, Snapshot
from backend.domain.rules import Rules
from backend.domain.settlement import Demand
from tools.labels import some_account, some_hash
from tools.receipts import new_receipt

if TYPE_CHECKING:
    from collections.abc import Sequence

CHAIN_ID = 31337
METHOD = "hidden-cosine-1"


def some_demand(
    operator: Account, batch_hash: Hash32, tree: Tree = Tree.RECEIPTS, key: int = 0, **fields: Any
) -> Demand:
    """An open demand."""
    chosen: dict[str, Any] = {
        "challenger": some_account("challenger"),
        "bond": 4,
        "deadline": 2_000,
        "deadline_block": 0,
        "is_open": True,
        "block_number": 1,
    }
    leaf = leaf_id(batch_hash, tree, key)
    return Demand(leaf, operator, batch_hash, tree, key, **(chosen | fields))


class Key:
    """A Signer (`backend.ports.keys`) on a key in memory."""

    def __init__(self, label: str) -> None:
        self._key = PrivateKey(keccak(label.encode()))
        self.account = Account(self._key.public_key.to_address())

    def sign(self, digest: bytes) -> str:
        raw = self._key.sign_msg_hash(digest).to_bytes()
        return "0x" + raw[:64].hex() + f"{raw[64] + 27:02x}"


def recover(digest: bytes, signature: str) -> Account:
    raw = to_bytes(signature)
    try:
        found = Signature(raw[:64] + bytes([(raw[64] - 27) % 256])).recover_public_key_from_msg_hash(digest)
    except Exception as error:
        raise InvalidInput(str(error), "signature") from error
    return Account(found.to_address())


class Market:
    """Versions with zero to two snapshots, their contributors, and channels that `serve` charges."""

    def __init__(
        self, seed: int = 0, num_channels: int = 3, num_contributors: int = 5, max_price: int = 900
    ) -> None:
        self.random = Random(seed)
        self.settlement = some_account("settlement")
        self.operator = some_account("operator")
        self.receipt_key = Key("receipt key")
        self.domain = TypedDomain(CHAIN_ID, self.settlement)
        self.max_price = max_price
        self.served_at = 1_790_000_000
        self.terms = parameter_set(1, fee_ppm=self.random.choice([0, 1, 50_000, 199_999]))
        self.payers = [Key(f"payer {n}") for n in range(num_channels)]
        self.channels = sorted(channel_id(p.account, self.operator, self.settlement) for p in self.payers)
        self.payer_of = {channel_id(p.account, self.operator, self.settlement): p for p in self.payers}
        self.cumulative = dict.fromkeys(self.channels, 0)
        accepted = accepted_hash([True] * num_contributors)
        self.snapshots = {
            snapshot_id(DatanetId(n + 1), num_contributors, accepted): num_contributors for n in range(3)
        }
        self.records: dict[VersionId, VersionRecord] = {}
        for n, count in enumerate((0, 1, 1, 2)):
            self._register(n, tuple(list(self.snapshots)[:count]))

    # Registry

    def version(self, version: VersionId) -> VersionRecord | None:
        return self.records.get(version)

    def registered_at(self, version: VersionId) -> int | None:
        return 1 if version in self.records else None

    def snapshot(self, snapshot: SnapshotId) -> Snapshot | None:
        if snapshot not in self.snapshots:
            return None
        datanet, count = DatanetId(list(self.snapshots).index(snapshot) + 1), self.snapshots[snapshot]
        accepted = tuple(range(count))
        return Snapshot(snapshot, datanet, count, accepted_hash([True] * count), accepted, 1)

    def contribution(self, datanet: DatanetId, index: int) -> Contribution | None:
        contributor = self.contributor_of(list(self.snapshots)[datanet - 1], index)
        if contributor is None:
            return None
        content = some_hash(f"content {datanet} {index}")
        return Contribution(
            datanet, index, contributor, content, some_hash("folder"), some_hash("MIT"), 10, True, 0, 1, 1
        )

    def contributor_of(self, snapshot: SnapshotId, index: int) -> Account | None:
        known = self.snapshots.get(snapshot, 0)
        # The creator and the operator contribute too: one account in several roles.
        special = {0: some_account("creator 1"), 1: self.operator}
        return special.get(index, some_account(f"contributor {index}")) if index < known else None

    # Serving

    def serve(self, channel: ChannelId | None = None) -> SignedReceipt:
        """The receipt of the channel's next answer."""
        channel = channel or self.random.choice(self.channels)
        slices = self._slices()
        records = [self.records[s.version_id] for s in slices]
        begins, tokens = self.cumulative[channel], (self.random.randint(1, 50), self.random.randint(1, 50))
        receipt = new_receipt(channel, begins, METHOD, slices, records, tokens, served_at=self.served_at)
        self.cumulative[channel] = receipt.cumulative
        return self.sign(receipt, slices)

    def sign(self, receipt: Receipt, slices: tuple[Slice, ...]) -> SignedReceipt:
        return SignedReceipt(
            receipt, METHOD, slices, self.receipt_key.sign(self.domain.receipt_digest(receipt))
        )

    def receipts(self, count: int) -> list[SignedReceipt]:
        """Receipts of `count` answers, in the order of a batch."""
        return in_order([self.serve() for _ in range(count)])

    def batch(self, receipts: Sequence[SignedReceipt], parent: OperatorLedger | None = None) -> Batch:
        return build(self.operator, parent or OperatorLedger(), self.terms, receipts, Rules(self))

    def _register(self, number: int, snapshots: tuple[SnapshotId, ...]) -> None:
        record = VersionRecord(
            creator=some_account(f"creator {number}"),
            name=f"version-{number}",
            adapter_digest=some_hash(f"adapter {number}"),
            cid_digest=some_hash(f"folder {number}"),
            base_model=some_hash("base"),
            snapshots=snapshots,
            prompt_price=self.random.randint(1, self.max_price),
            completion_price=self.random.randint(1, self.max_price),
            operator_ppm=self.random.randint(0, 400_000),
            creator_ppm=self.random.randint(0, 400_000),
        )
        self.records[version_id(record)] = record

    def _slices(self) -> tuple[Slice, ...]:
        versions = self.random.sample(list(self.records), self.random.randint(1, len(self.records)))
        weights = self._parts(len(versions), least=1000)
        return tuple(Slice(v, w, self._list(v)) for v, w in zip(versions, weights, strict=True))

    def _list(self, version: VersionId) -> tuple[Share, ...]:
        snapshots = self.records[version].snapshots
        positions = [n << 24 | i for n, s in enumerate(snapshots) for i in range(self.snapshots[s])]
        if not positions:
            return ()
        chosen = sorted(self.random.sample(positions, self.random.randint(1, min(len(positions), 256))))
        return tuple(map(Share, chosen, self._parts(len(chosen), least=1)))

    def _parts(self, count: int, least: int) -> list[int]:
        parts = [self.random.randint(least, PPM // count) for _ in range(count)]
        parts[0] += PPM - sum(parts)
        return parts


def in_order(receipts: Sequence[SignedReceipt]) -> list[SignedReceipt]:
    return sorted(receipts, key=lambda s: (s.receipt.channel_id, s.receipt.cumulative))


def parameter_set(number: int, fee_ppm: int, window: int = 60) -> ParameterSet:
    return ParameterSet(
        id=number,
        treasury=some_account("treasury"),
        fee_ppm=fee_ppm,
        stake_cover_ppm=100_000,
        dispute_window=window,
        min_contributors_ppm=200_000,
        min_operator_ppm=0,
        max_operator_ppm=500_000,
        challenger_ppm=250_000,
    )
