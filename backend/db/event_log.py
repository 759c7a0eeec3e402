"""Event log of the chain: stores events, updates projections and moves the cursor in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, inspect, select, text, tuple_

from backend.db.bulk import in_chunks, insert_all
from backend.db.mapping import columns_of, from_row
from backend.db.projections import Rule, entity_of, rule_of
from backend.db.tables.chain import CheckpointRow, EventRow, Projection
from backend.domain.chain import BlockRef, ChainEvent
from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from backend.db.projections import Key

_CURSOR = select(*columns_of(CheckpointRow, BlockRef)).order_by(CheckpointRow.number.desc()).limit(1)
KEPT_CHECKPOINTS = 1000
"""Checkpoints that are retained. A reorg deeper than the oldest one re-indexes the whole chain."""


@dataclass(frozen=True, slots=True)
class Change:
    """An event, its projection rule and the row that the rule changes."""

    event: ChainEvent
    rule: Rule | None
    entity: str | None


class EventLog:
    """Repository of events and checkpoints. Implements `backend.ports.chain.EventLog`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def cursor(self) -> BlockRef | None:
        row = self._session.connection().execute(_CURSOR).first()
        return None if row is None else BlockRef(*row)

    def locked_cursor(self) -> BlockRef | None:
        """The cursor, locked against other transactions until this one ends."""
        if self._session.get_bind().dialect.name == "postgresql":  # SQLite has a single writer
            self._session.execute(text(f"LOCK TABLE {CheckpointRow.__tablename__} IN EXCLUSIVE MODE"))
        return self.cursor()

    def checkpoints(self) -> list[BlockRef]:
        """Blocks that `rewind` accepts, newest first."""
        rows = self._session.scalars(select(CheckpointRow).order_by(CheckpointRow.number.desc()))
        return [from_row(BlockRef, row) for row in rows]

    def append(self, events: Sequence[ChainEvent], cursor: BlockRef) -> None:
        """Add all events after the old cursor up to the new one.

        Errors: `Conflict` if `cursor` is not above the current one.
        """
        before = self.cursor()
        if before is not None and cursor.number <= before.number:
            raise Conflict(f"block {cursor.number} is indexed already", param="cursor")
        changes = [_change(event) for event in events]
        insert_all(self._session, EventRow, [_values(change) for change in changes])
        self._apply(changes)
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
        """Drop all events above block `to` and return how many were dropped.

        Rows that those events changed are rebuilt from their remaining events.
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
            self._apply([_change(event) for event in self._events(EventRow.entity == entity)])
        self._session.flush()
        return len(dropped)

    def num_events(self) -> int:
        return self._session.scalar(select(func.count()).select_from(EventRow)) or 0

    def _apply(self, changes: Sequence[Change]) -> None:
        rows = self._existing_rows(changes)
        for change in changes:
            if change.rule is None:
                continue
            row = rows.get(change.entity)
            if row is None and change.rule.creates:
                row = rows[change.entity] = self._new(change.rule, change.event)
            if row is not None:
                change.rule.apply(row, change.event)
        self._session.flush()

    def _existing_rows(self, changes: Sequence[Change]) -> dict[str | None, Projection]:
        """Existing projection rows of the changes, by entity."""
        keys: dict[type[Projection], set[Key]] = {}
        for change in changes:
            if change.rule is not None:
                keys.setdefault(change.rule.table, set()).add(change.rule.key(change.event))
        rows: dict[str | None, Projection] = {}
        for table, wanted in keys.items():
            columns = inspect(table).primary_key
            for some in in_chunks(sorted(wanted)):
                is_wanted = tuple_(*columns).in_(some)
                for row in self._session.scalars(select(table).where(is_wanted)):
                    rows[entity_of(table, tuple(inspect(row).identity or ()))] = row
        return rows

    def _new(self, rule: Rule, event: ChainEvent) -> Projection:
        names = [str(column.key) for column in inspect(rule.table).primary_key]
        position = {"block_number": event.block_number, "log_index": event.log_index}
        row = rule.table(**(position | dict(zip(names, rule.key(event), strict=True))))
        self._session.add(row)
        return row

    def _events(self, *where: Any) -> list[ChainEvent]:
        query = select(EventRow).where(*where).order_by(EventRow.block_number, EventRow.log_index)
        return [from_row(ChainEvent, row) for row in self._session.scalars(query)]

    def _prune(self) -> None:
        oldest_kept = self._session.scalar(
            select(CheckpointRow.number)
            .order_by(CheckpointRow.number.desc())
            .offset(KEPT_CHECKPOINTS)
            .limit(1)
        )
        if oldest_kept is not None:
            self._session.execute(delete(CheckpointRow).where(CheckpointRow.number < oldest_kept))


def _change(event: ChainEvent) -> Change:
    rule = rule_of(event)
    return Change(event, rule, None if rule is None else rule.entity(event))


def _values(change: Change) -> dict[str, Any]:
    event = change.event
    values = {name: getattr(event, name) for name in ChainEvent.__slots__}
    return values | {"args": dict(event.args), "entity": change.entity}
