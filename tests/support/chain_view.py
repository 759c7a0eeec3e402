"""A chain view in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import TYPE_CHECKING, Any

from backend.domain.chain import BlockRef
from backend.domain.errors import InvalidInput
from backend.domain.hashing import version_id
from backend.domain.registries import Contribution, Datanet, Operator, RegisteredVersion, Snapshot
from backend.domain.settlement import BatchState
from tests.support.fakes import FakeClock
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import pytest

    from backend.domain.channels import Channel, Grant
    from backend.domain.governance import Proposal
    from backend.domain.ids import Account, ChannelId, DatanetId, Hash32, SnapshotId, VersionId
    from backend.domain.receipt import VersionRecord
    from backend.domain.settlement import Claim, Demand


def rows_after(
    listed: Sequence[Any], names: Sequence[str], after: str | None, limit: int | None
) -> list[Any]:
    """Up to `limit` items (None: all) that follow the one that `after` names."""
    if after is not None and after not in names:
        raise InvalidInput("not listed", param="after")
    start = 0 if after is None else names.index(after) + 1
    return list(listed[start : None if limit is None else start + limit])


def has_fields(record: VersionRecord, wanted: Mapping[str, Any]) -> bool:
    """Whether the record has these values; None stands for any."""
    return all(value in (None, getattr(record, name)) for name, value in wanted.items())


class BatchViews:
    """The part of `ChainView` that finds batches among those that `listed` returns, in order."""

    def listed(self, operator: Account) -> list[Any]:
        raise NotImplementedError

    def batches(self, operator: Account) -> list[Any]:
        return self.listed(operator)

    def valid_batches(self, operator: Account, after: int = 0, until: int | None = None) -> list[Any]:
        end = float("inf") if until is None else until
        found = (one for one in self.listed(operator) if one.state is not BatchState.VOID)
        return [one for one in found if after < one.number <= end]

    def numbered_batch(self, operator: Account, number: int) -> Any:
        return next((one for one in self.listed(operator)[::-1] if one.number == number), None)

    def void_batches(self, operator: Account) -> list[Any]:
        return [one for one in self.listed(operator) if one.state is BatchState.VOID]

    def open_batches(self, operator: Account) -> list[Any]:
        return [one for one in self.listed(operator) if one.state is BatchState.COMMITTED]

    def recent_batches(self, operator: Account, after: str | None, limit: int) -> list[Any]:
        newest_first = self.listed(operator)[::-1]
        return rows_after(newest_first, [one.hash for one in newest_first], after, limit)

    def finalised(self, operator: Account) -> int:
        found = (one.number for one in self.listed(operator) if one.state is BatchState.FINAL)
        return max(found, default=0)


def batches_read(view: BatchViews, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the batches that the view returns from now on."""
    read: list[int] = []

    def recorded(find: Callable[..., Any]) -> Callable[..., Any]:
        def found(*args: Any, **options: Any) -> Any:
            result = find(*args, **options)
            several = result if isinstance(result, list) else [] if result is None else [result]
            read.extend(batch.number for batch in several)
            return result

        return found

    for name in ("batch", *(one for one in vars(BatchViews) if one.endswith(("batches", "_batch")))):
        monkeypatch.setattr(view, name, recorded(getattr(view, name)))
    return read


@dataclass
class FakeChainView(BatchViews):
    """The part of `ChainView` that serving reads; its last block is `lag_seconds` old."""

    clock: FakeClock = field(default_factory=FakeClock)
    lag_seconds: int = 0
    block_number: int = 9
    versions_list: list[RegisteredVersion] = field(default_factory=list)
    channels: dict[ChannelId, Channel] = field(default_factory=dict)
    granted: dict[ChannelId, list[Grant]] = field(default_factory=dict)
    settled_lines: dict[ChannelId, int] = field(default_factory=dict)
    """Final cumulative by channel; a channel's collected cumulative where absent."""
    snapshots: dict[SnapshotId, Snapshot] = field(default_factory=dict)
    committed: list[Any] = field(default_factory=list)
    demanded: list[Demand] = field(default_factory=list)
    datanet_list: list[Datanet] = field(default_factory=list)
    recorded: list[Contribution] = field(default_factory=list)
    proposal_list: list[Proposal] = field(default_factory=list)
    operator_list: list[Operator] = field(default_factory=list)
    blocks: dict[int, BlockRef] = field(default_factory=dict)

    def mine(self, name: str = "") -> BlockRef:
        """A block now, with a hash of this name or of its number."""
        self.block_number += 1
        mined = self.cursor()
        self.blocks[mined.number] = replaced(mined, hash=some_hash(name)) if name else mined
        return self.cursor()

    def block(self, number: int) -> BlockRef | None:
        """Those before the first mined one are of 1970."""
        if number > self.block_number:
            return None
        return self.blocks.get(number, BlockRef(number, some_hash(f"block {number}"), some_hash("old"), 0))

    def cursor(self) -> BlockRef:
        if self.block_number in self.blocks:
            return self.blocks[self.block_number]
        instant = int(self.clock().timestamp()) - self.lag_seconds
        names = (some_hash(f"block {number}") for number in (self.block_number, self.block_number - 1))
        return BlockRef(self.block_number, *names, instant)

    def claims(self, account: Account) -> list[Claim]:
        return []

    def datanets(self, after: int | None, limit: int) -> list[Datanet]:
        last = None if after is None else str(after)
        return rows_after(self.datanet_list, [str(one.id) for one in self.datanet_list], last, limit)

    def datanet_folders(self, digests: Collection[Hash32]) -> set[Hash32]:
        return {known.cid_digest for known in self.datanet_list} & set(digests)

    def datanet(self, datanet: DatanetId) -> Datanet | None:
        return next((known for known in self.datanet_list if known.id == datanet), None)

    def contributions(
        self, datanet: DatanetId, after: str | None = None, limit: int | None = None
    ) -> list[Contribution]:
        found = [known for known in self.recorded if known.datanet == datanet]
        return rows_after(found, [one.content_hash for one in found], after, limit)

    def newest_snapshots(self, datanet: DatanetId, limit: int) -> list[Snapshot]:
        return [known for known in self.snapshots.values() if known.datanet == datanet][: -limit - 1 : -1]

    def contribution_with(self, datanet: DatanetId, content_hash: Hash32) -> Contribution | None:
        return next(iter(self.contributions_with([(datanet, content_hash)])), None)

    def contributions_with(self, keys: Collection[tuple[DatanetId, Hash32]]) -> list[Contribution]:
        return [known for known in self.recorded if (known.datanet, known.content_hash) in keys]

    def operator(self, account: Account) -> Operator | None:
        return next((one for one in self.operator_list if one.account == account), None)

    def reachable_operators(self) -> list[Operator]:
        return self.operator_list

    def newest_batches(self) -> dict[Account, Hash32]:
        return {batch.operator: batch.hash for batch in self.committed}

    def operators_after(self, after: str | None, limit: int) -> list[Operator]:
        return rows_after(self.operator_list, [one.account for one in self.operator_list], after, limit)

    def proposals(self, after: str | None, limit: int, *, is_newest_first: bool = False) -> list[Proposal]:
        listed = self.proposal_list[:: -1 if is_newest_first else 1]
        return rows_after(listed, [str(one.id) for one in listed], after, limit)

    def proposal(self, proposal: int) -> Proposal | None:
        return next((known for known in self.proposal_list if known.id == proposal), None)

    def channel(self, channel: ChannelId) -> Channel | None:
        return self.channels.get(channel)

    def settled(self, channel: ChannelId) -> int:
        found = self.channels.get(channel)
        return self.settled_lines.get(channel, found.collected if found else 0)

    def open_demands(self, operator: Account) -> list[Demand]:
        return [found for found in self.demanded if found.operator == operator]

    def known_channels(self, channels: Collection[ChannelId]) -> dict[ChannelId, Channel]:
        return {channel: self.channels[channel] for channel in channels if channel in self.channels}

    def grants(self, channel: ChannelId) -> list[Grant]:
        return self.granted.get(channel, [])

    def known_grants(self, channels: Collection[ChannelId]) -> dict[ChannelId, list[Grant]]:
        return {channel: self.grants(channel) for channel in channels}

    def snapshot(self, snapshot: SnapshotId) -> Snapshot | None:
        return self.snapshots.get(snapshot)

    def contributor_of(self, snapshot: SnapshotId, index: int) -> Account | None:
        known = self.snapshots.get(snapshot)
        return some_account(f"contributor {index}") if known and index < known.count else None

    def version(self, version: VersionId) -> VersionRecord | None:
        return next((v.record for v in self.versions_list if v.id == version), None)

    def versions(self, **wanted: Any) -> list[RegisteredVersion]:
        return [v for v in self.versions_list if has_fields(v.record, wanted)]

    def listed(self, operator: Account) -> list[Any]:
        return [batch for batch in self.committed if batch.operator == operator]

    def open_totals(self, operators: Collection[Account]) -> dict[Account, int]:
        found = {one: self.open_batches(one) for one in operators}
        return {one: sum(int(each.header["total"]) for each in batches) for one, batches in found.items()}

    def demands(self, *batches: Hash32) -> list[Demand]:
        return [found for found in self.demanded if found.batch_hash in batches]

    def register(self, record: VersionRecord, *, is_deprecated: bool = False) -> VersionId:
        number = version_id(record)
        self.versions_list.append(RegisteredVersion(number, record, is_deprecated, len(self.versions_list)))
        return number
