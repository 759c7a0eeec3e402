"""Repository of the chain's projections. Implements `backend.ports.chain_view.ChainView`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, false, func, not_, select, tuple_

from backend.db.bulk import among, found_among
from backend.db.disputes import ChainBatches
from backend.db.event_log import EventLog
from backend.db.mapping import columns_of, from_row
from backend.db.paging import in_chain_order
from backend.db.projections import entity_of
from backend.db.tables import chain as t
from backend.domain.channels import Channel, Grant
from backend.domain.contribution import ReviewReason
from backend.domain.governance import Proposal
from backend.domain.ids import Account, ChannelId, DatanetId, Hash32, SnapshotId, VersionId
from backend.domain.parameters import ParameterSet
from backend.domain.receipt import VersionRecord
from backend.domain.registries import Contribution, Datanet, Operator, RegisteredVersion, Snapshot
from backend.domain.settlement import Claim

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Select

    from backend.domain.chain import BlockRef

_CHANNELS = select(*columns_of(t.ChannelRow, Channel)).where(among(t.ChannelRow.id))
_GRANTS = (
    select(*columns_of(t.GrantRow, Grant))
    .where(among(t.GrantRow.channel_id))
    .order_by(t.GrantRow.block_number, t.GrantRow.log_index)
)
_IS_WITHDRAWN = and_(
    t.ContributionRow.is_accepted.is_(False), t.ContributionRow.reason == ReviewReason.WITHDRAWN
)


class ChainStore(ChainBatches):
    def cursor(self) -> BlockRef | None:
        return EventLog(self._session).cursor()

    def datanet(self, datanet: DatanetId) -> Datanet | None:
        row = self._session.get(t.DatanetRow, datanet)
        return None if row is None else self._datanets([row])[0]

    def datanets(self, after: int | None, limit: int) -> list[Datanet]:
        table = t.DatanetRow
        last = None if after is None else (table.id, after)
        return self._datanets(list(in_chain_order(self._session, select(table), table, last, limit)))

    def datanet_folders(self, digests: Collection[Hash32]) -> set[Hash32]:
        column = t.DatanetRow.cid_digest
        return {Hash32(found) for found in self._session.scalars(select(column).where(column.in_(digests)))}

    def contribution(self, datanet: DatanetId, index: int) -> Contribution | None:
        row = self._admitted(datanet, index)
        return None if row is None else from_row(Contribution, row)

    def contribution_with(self, datanet: DatanetId, content_hash: Hash32) -> Contribution | None:
        row = self._session.get(t.ContributionRow, (datanet, content_hash))
        return None if row is None else from_row(Contribution, row)

    def contributions_with(self, keys: Collection[tuple[DatanetId, Hash32]]) -> list[Contribution]:
        table = t.ContributionRow
        query = select(table).where(tuple_(table.datanet, table.content_hash).in_(keys))
        return [from_row(Contribution, row) for row in self._session.scalars(query)] if keys else []

    def contributions(
        self, datanet: DatanetId, after: str | None = None, limit: int | None = None
    ) -> list[Contribution]:
        table = t.ContributionRow
        query = select(table).filter_by(datanet=datanet)
        last = None if after is None else (table.content_hash, after)
        return [
            from_row(Contribution, found)
            for found in in_chain_order(self._session, query, table, last, limit)
        ]

    def withdrawn_contributions(self) -> list[Contribution]:
        found = self._session.scalars(select(t.ContributionRow).where(_IS_WITHDRAWN))
        return [from_row(Contribution, row) for row in found]

    def has_other_record(self, withdrawn: Contribution) -> bool:
        row = t.ContributionRow
        query = select(row.datanet).where(not_(func.coalesce(_IS_WITHDRAWN, false())))
        query = query.filter_by(content_hash=withdrawn.content_hash, cid_digest=withdrawn.cid_digest)
        return self._session.scalar(query.limit(1)) is not None

    def snapshot(self, snapshot: SnapshotId) -> Snapshot | None:
        row = self._session.get(t.SnapshotRow, snapshot)
        return None if row is None else _snapshot(row)

    def newest_snapshots(self, datanet: DatanetId, limit: int) -> list[Snapshot]:
        table = t.SnapshotRow
        query = select(table).filter_by(datanet=datanet)
        found = in_chain_order(self._session, query, table, None, limit, is_newest_first=True)
        return list(map(_snapshot, found))

    def contributor_of(self, snapshot: SnapshotId, index: int) -> Account | None:
        row = self._session.get(t.SnapshotRow, snapshot)
        if row is None or not 0 <= index < row.count or not _is_accepted(row, index):
            return None
        contribution = self._admitted(row.datanet, index)
        return None if contribution is None else Account(contribution.contributor)

    def version(self, version: VersionId) -> VersionRecord | None:
        row = self._session.get(t.VersionRow, version)
        return None if row is None else record_of(row)

    def registered_at(self, version: VersionId) -> int | None:
        row = self._session.get(t.VersionRow, version)
        if row is None:
            return None
        event = select(t.EventRow.timestamp).where(
            t.EventRow.block_number == row.block_number, t.EventRow.log_index == row.log_index
        )
        return self._session.scalar(event)

    def versions(
        self,
        creator: Account | None = None,
        name: str | None = None,
        adapter_digest: Hash32 | None = None,
        base_model: Hash32 | None = None,
    ) -> list[RegisteredVersion]:
        rows = self._all(
            t.VersionRow, creator=creator, name=name, adapter_digest=adapter_digest, base_model=base_model
        )
        return [
            RegisteredVersion(VersionId(Hash32(row.id)), record_of(row), row.is_deprecated, row.block_number)
            for row in rows
        ]

    def channel(self, channel: ChannelId) -> Channel | None:
        row = self._session.get(t.ChannelRow, channel)
        return None if row is None else from_row(Channel, row)

    def channels(self, payer: Account | None = None, operator: Account | None = None) -> list[Channel]:
        return [from_row(Channel, row) for row in self._all(t.ChannelRow, payer=payer, operator=operator)]

    def known_channels(self, channels: Collection[ChannelId]) -> dict[ChannelId, Channel]:
        rows = found_among(self._session, _CHANNELS, channels)
        return {(found := Channel(*row)).id: found for row in rows}

    def grants(self, channel: ChannelId) -> list[Grant]:
        return self.known_grants([channel]).get(channel, [])

    def known_grants(self, channels: Collection[ChannelId]) -> dict[ChannelId, list[Grant]]:
        found: dict[ChannelId, list[Grant]] = {}
        for row in found_among(self._session, _GRANTS, channels):
            grant = Grant(*row)
            found.setdefault(grant.channel_id, []).append(grant)
        return found

    def parameter_set(self, number: int) -> ParameterSet | None:
        row = self._session.get(t.ParameterSetRow, number)
        return None if row is None else _parameter_set(row)

    def latest_parameter_set(self) -> ParameterSet | None:
        newest = select(t.ParameterSetRow).order_by(t.ParameterSetRow.id.desc()).limit(1)
        row = self._session.scalar(newest)
        return None if row is None else _parameter_set(row)

    def operator(self, operator: Account) -> Operator | None:
        row = self._session.get(t.OperatorRow, operator)
        return None if row is None else _operator(row)

    def keys_at(self, operator: Account, block_number: int) -> list[Account]:
        event = t.EventRow
        added = select(event.args).where(
            event.entity == entity_of(t.OperatorRow, (operator,)),
            event.name == "ReceiptKeyAdded",
            event.block_number <= block_number,
        )
        return [Account(args["key"]) for args in self._session.scalars(added.order_by(event.block_number))]

    def reachable_operators(self) -> list[Operator]:
        row = t.OperatorRow
        is_obliged = (row.stake > 0) | row.account.in_(select(t.BatchRow.operator))
        query = select(row).where(row.endpoint != "", is_obliged).order_by(row.block_number, row.log_index)
        return list(map(_operator, self._session.scalars(query)))

    def operators_after(self, after: str | None, limit: int) -> list[Operator]:
        table = t.OperatorRow
        last = None if after is None else (table.account, after)
        return list(map(_operator, in_chain_order(self._session, select(table), table, last, limit)))

    def claims(self, account: Account) -> list[Claim]:
        return [from_row(Claim, row) for row in self._all(t.ClaimRow, account=account)]

    def claimed(self, operator: Account) -> dict[Account, int]:
        row = t.ClaimRow
        query = select(row.account, row.cumulative).filter_by(operator=operator)
        found = self._session.execute(query.order_by(row.block_number, row.log_index))
        return {Account(account): cumulative for account, cumulative in found}

    def proposal(self, proposal: int) -> Proposal | None:
        row = self._session.get(t.ProposalRow, str(proposal))
        return None if row is None else _proposal(row)

    def proposals(self, after: str | None, limit: int, *, is_newest_first: bool = False) -> list[Proposal]:
        table = t.ProposalRow
        last = None if after is None else (table.id, after)
        found = in_chain_order(
            self._session, select(table), table, last, limit, is_newest_first=is_newest_first
        )
        return list(map(_proposal, found))

    def _all(self, table: type[Any], **where: Any) -> list[Any]:
        """Rows in chain order; conditions that are None are ignored."""
        query: Select[Any] = select(table).filter_by(**{k: v for k, v in where.items() if v is not None})
        return list(self._session.scalars(query.order_by(table.block_number, table.log_index)))

    def _admitted(self, datanet: int, index: int) -> t.ContributionRow | None:
        return self._session.scalar(select(t.ContributionRow).filter_by(datanet=datanet, index=index))

    def _datanets(self, rows: Sequence[t.DatanetRow]) -> list[Datanet]:
        row = t.ContributionRow
        admitted = select(row.datanet, func.count(row.index).label("num")).group_by(row.datanet)
        found = self._session.execute(admitted.where(row.datanet.in_([one.id for one in rows])))
        counts = {one.datanet: one.num for one in found}
        return [from_row(Datanet, one, num_contributions=counts.get(one.id, 0)) for one in rows]


def _snapshot(row: t.SnapshotRow) -> Snapshot:
    accepted = tuple(i for i in range(row.count) if _is_accepted(row, i))
    return from_row(Snapshot, row, accepted=accepted)


def _is_accepted(row: t.SnapshotRow, index: int) -> bool:
    """Whether bit `index mod 256`, counted from the least significant, of word `index div 256` is set."""
    start = 2 + index // 256 * 64
    return bool(int(row.accepted[start : start + 64], 16) >> index % 256 & 1)


def record_of(row: Any) -> VersionRecord:
    """The record of a `VersionRow`, or of a result row with its columns."""
    record = row.record
    return VersionRecord(
        creator=Account(row.creator),
        name=row.name,
        adapter_digest=Hash32(record["adapterDigest"]),
        cid_digest=Hash32(record["cidDigest"]),
        base_model=Hash32(record["baseModel"]),
        snapshots=tuple(SnapshotId(s) for s in record["snapshots"]),
        prompt_price=record["promptPrice"],
        completion_price=record["completionPrice"],
        operator_ppm=record["operatorPpm"],
        creator_ppm=record["creatorPpm"],
    )


def _parameter_set(row: t.ParameterSetRow) -> ParameterSet:
    values = row.values
    return ParameterSet(
        id=row.id,
        treasury=Account(values["treasury"]),
        fee_ppm=values["feePpm"],
        stake_cover_ppm=values["stakeCoverPpm"],
        dispute_window=values["disputeWindow"],
        min_contributors_ppm=values["minContributorsPpm"],
        min_operator_ppm=values["minOperatorPpm"],
        max_operator_ppm=values["maxOperatorPpm"],
        challenger_ppm=values["challengerPpm"],
    )


def _operator(row: t.OperatorRow) -> Operator:
    retired = {Account(key): at for key, at in row.retired_keys.items()}
    return from_row(Operator, row, keys=tuple(row.keys), retired=retired)


def _proposal(row: t.ProposalRow) -> Proposal:
    content = row.content
    against, for_, abstain = row.votes
    return Proposal(
        id=int(row.id),
        proposer=Account(content["proposer"]),
        description=content["description"],
        targets=tuple(map(Account, content["targets"])),
        values=tuple(content["values"]),
        calldatas=tuple(content["calldatas"]),
        vote_starts_at=content["voteStart"],
        vote_ends_at=row.vote_ends_at,
        votes_against=against,
        votes_for=for_,
        votes_abstain=abstain,
        executable_at=row.executable_at,
        block_number=row.block_number,
    )
