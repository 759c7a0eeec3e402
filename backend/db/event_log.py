"""Events, projections and cursor, moved together in one database transaction."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, inspect, select, text

from backend.db.projections import Rule, rule_of
from backend.db.tables.chain import CheckpointRow, EventRow, Projection
from backend.domain.chain import BlockRef, ChainEvent
from backend.domain.errors import Conflict
from backend.domain.ids import Hash32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.orm import Session

KEPT_CHECKPOINTS = 1000
"""A rewind can go back this far by steps; beyond it everything is read again."""


class EventLog:
    """What the indexer writes through. Implements `backend.ports.chain.EventLog`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def cursor(self) -> BlockRef | None:
        newest = select(CheckpointRow).order_by(CheckpointRow.number.desc()).limit(1)
        row = self._session.scalar(newest)
        return None if row is None else _block(row)

    def locked_cursor(self) -> BlockRef | None:
        """The cursor; until this transaction ends nobody else moves it."""
        if self._session.get_bind().dialect.name == "postgresql":  # on SQLite a writer is alone anyway
            self._session.execute(text(f"LOCK TABLE {CheckpointRow.__tablename__} IN EXCLUSIVE MODE"))
        return self.cursor()

    def checkpoints(self) -> list[BlockRef]:
        """Blocks to which a rewind can go, newest first."""
        rows = self._session.scalars(select(CheckpointRow).order_by(CheckpointRow.number.desc()))
        return [_block(row) for row in rows]

    def append(self, events: Sequence[ChainEvent], cursor: BlockRef) -> None:
        """Take in all events after the old cursor up to the new one. `Conflict` unless it moves forward."""
        before = self.cursor()
        if before is not None and cursor.number <= before.number:
            raise Conflict(f"block {cursor.number} is indexed already", param="cursor")
        if events:
            self._session.execute(insert(EventRow), [_values(event) for event in events])
        self._apply(events)
        self._session.add(
            CheckpointRow(
                number=cursor.number,
                hash=cursor.hash,
                parent_hash=cursor.parent_hash,
                timestamp=cursor.timestamp,
            )
        )
        self._prune()
        self._session.flush()

    def rewind(self, to: BlockRef) -> int:
        """Forget everything above a block that stays. Returns how many events fell out.

        The entities that those events touched are made again from the events that remain of them.
        """
        self._session.execute(delete(CheckpointRow).where(CheckpointRow.number > to.number))
        dropped = self._events(EventRow.block_number > to.number)
        touched = {(rule.table, rule.key(e), rule.entity(e)) for e in dropped if (rule := rule_of(e))}
        self._session.execute(delete(EventRow).where(EventRow.block_number > to.number))
        for table, key, entity in touched:
            row = self._session.get(table, key)
            if row is not None:
                self._session.delete(row)
                self._session.flush()
            self._apply(self._events(EventRow.entity == entity))
        self._session.flush()
        return len(dropped)

    def state_hash(self) -> Hash32:
        """sha-256 over every projection row in order of table and key: equal states have equal hashes."""
        digest = hashlib.sha256()
        for table in sorted(Projection.__subclasses__(), key=lambda table: table.__tablename__):
            mapper = inspect(table)
            names = sorted(column.key for column in mapper.column_attrs)
            for row in self._session.scalars(select(table).order_by(*mapper.primary_key)):
                values = {name: getattr(row, name) for name in names}
                line = json.dumps([table.__tablename__, values], sort_keys=True, separators=(",", ":"))
                digest.update(line.encode() + b"\n")
        return Hash32("0x" + digest.hexdigest())

    def num_events(self) -> int:
        return self._session.scalar(select(func.count()).select_from(EventRow)) or 0

    def _apply(self, events: Iterable[ChainEvent]) -> None:
        # Rows that are new in this call are not in the session's identity map before a flush.
        rows: dict[str, Projection] = {}
        for event in events:
            rule = rule_of(event)
            if rule is None:
                continue
            entity = rule.entity(event)
            row = rows.get(entity) or self._row(rule, event)
            if row is not None:
                rows[entity] = row
                rule.apply(row, event)
        self._session.flush()

    def _row(self, rule: Rule, event: ChainEvent) -> Projection | None:
        """The row that the event is about, a new one if its rule creates it; else None."""
        key = rule.key(event)
        with self._session.no_autoflush:
            known = self._session.get(rule.table, key)
        if known is not None or not rule.creates:
            return known
        names = [str(column.key) for column in inspect(rule.table).primary_key]
        place = {"block_number": event.block_number, "log_index": event.log_index}
        row = rule.table(**(place | dict(zip(names, key, strict=True))))
        self._session.add(row)
        return row

    def _events(self, *where: Any) -> list[ChainEvent]:
        query = select(EventRow).where(*where).order_by(EventRow.block_number, EventRow.log_index)
        return [_event(row) for row in self._session.scalars(query)]

    def _prune(self) -> None:
        oldest_kept = self._session.scalar(
            select(CheckpointRow.number)
            .order_by(CheckpointRow.number.desc())
            .offset(KEPT_CHECKPOINTS)
            .limit(1)
        )
        if oldest_kept is not None:
            self._session.execute(delete(CheckpointRow).where(CheckpointRow.number < oldest_kept))


def _block(row: CheckpointRow) -> BlockRef:
    return BlockRef(row.number, Hash32(row.hash), Hash32(row.parent_hash), row.timestamp)


def _values(event: ChainEvent) -> dict[str, Any]:
    rule = rule_of(event)
    values = {f.name: getattr(event, f.name) for f in fields(event)}
    return values | {"args": dict(event.args), "entity": None if rule is None else rule.entity(event)}


def _event(row: EventRow) -> ChainEvent:
    return ChainEvent(
        block_number=row.block_number,
        block_hash=Hash32(row.block_hash),
        log_index=row.log_index,
        tx_hash=Hash32(row.tx_hash),
        timestamp=row.timestamp,
        contract=row.contract,
        name=row.name,
        args=row.args,
    )
