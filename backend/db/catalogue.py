"""Repository of the model catalogue: finds versions in SQL, and stores their descriptions and usage."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Text,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    tuple_,
)

from backend.db.bulk import table_of
from backend.db.chain import record_of
from backend.db.tables.catalogue import DescriptionRow, VersionUsageRow
from backend.db.tables.chain import EventRow, SnapshotRow, VersionRow
from backend.db.tables.denials import DenialRow
from backend.db.usage import answers_by_version
from backend.domain.catalogue import Agreement, Card, Description, ListedVersion, ModelQuery, Served, Sort
from backend.domain.denials import Denied
from backend.domain.errors import InvalidInput
from backend.domain.ids import ZERO_HASH, Hash32, VersionId
from backend.domain.receipt import TRAINING_NAME
from backend.domain.registries import RegisteredVersion

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Select, Subquery
    from sqlalchemy.orm import Session

    from backend.domain.denials import FloorPrice

_LEAST = -1e300
"""In place of an unknown quality, so that keys compare without NULLs."""

_LONG = {"card_text", "search_text"}
"""Columns that lists do not read."""

_v, _d, _e = (table_of(entity).c for entity in (VersionRow, DescriptionRow, EventRow))
_is_bare = _v.adapter_digest == ZERO_HASH
_OWN = _v.own_prompt_price, _v.own_completion_price
_OTHERS = _v.operator_prompt_price, _v.operator_completion_price


class CatalogueStore:
    def __init__(self, session: Session) -> None:
        self._session = session

    def find(
        self,
        served: Served,
        query: ModelQuery,
        usage_since: int,
        after: VersionId | None = None,
        limit: int | None = None,
    ) -> list[ListedVersion]:
        """The newest version of each name that can be served, and the base model's newest record. Those whose
        folder is denied are found by their names alone.

        `usage_since`: first day (since 1970-01-01) of which answers count. `after`: the last version of the
        page before. Errors: `InvalidInput` if `after` is not among those found.
        """
        usage = _usage(usage_since)
        newest = _newest(served, [int(datanet) for datanet in self._denied(Denied.DATANET)])
        found = _described(usage).where(_v.id.in_(select(newest.c.id)))
        found = found.where(*_conditions(query, served, self._denied(Denied.CONTENT)))
        keys, is_descending = _keys(query.sort, usage)
        if after is not None:
            found = found.where(self._follows(found, keys, after, is_descending=is_descending))
        order = [key.desc() if is_descending else key for key in keys]
        return [_listed(row) for row in self._session.execute(found.order_by(*order).limit(limit))]

    def get(self, version: VersionId, usage_since: int) -> ListedVersion | None:
        """A registered version, whether it can be served or not."""
        found = _described(_usage(usage_since)).add_columns(_d.card_text).where(_v.id == version)
        row = self._session.execute(found).one_or_none()
        return None if row is None else _listed(row)

    def agreement(self, version: VersionId) -> Agreement | None:
        """What the version's folder states; see `Description`."""
        stored = self._session.scalar(select(_d.agreement).where(_d.version_id == version))
        return None if stored is None else Agreement(**stored)

    def licences(self) -> list[str]:
        """The distinct licences of described versions."""
        known = select(_d.licence).where(_d.licence.is_not(None)).distinct()
        return [str(licence) for licence in self._session.scalars(known)]

    # Descriptions

    def undescribed(self, limit: int) -> list[RegisteredVersion]:
        """Versions with an adapter and without a description."""
        missing = (
            select(table_of(VersionRow))
            .outerjoin(DescriptionRow, _d.version_id == _v.id)
            .where(_d.version_id.is_(None))
        )
        order = (_v.block_number, _v.log_index)
        return [
            _registered(row)
            for row in self._session.execute(missing.where(not_(_is_bare)).order_by(*order).limit(limit))
        ]

    def describe(
        self, version: VersionId, description: Description, search_text: str, card_due_at: datetime
    ) -> None:
        """Store a description without its card, in place of an earlier one. `card_due_at`: when to look for
        the card.
        """
        row = DescriptionRow(
            version_id=version,
            licence=description.licence,
            parents=None if description.parents is None else list(description.parents),
            num_contributions=description.num_contributions,
            licences=list(description.licences),
            metrics=dict(description.metrics),
            quality=description.quality,
            card_due_at=card_due_at,
            search_text=search_text,
        )
        self._session.merge(row)
        self._session.flush()

    def without_card(self, now: datetime, limit: int) -> list[tuple[VersionId, Hash32]]:
        """Versions whose card is due, and the digests of their folders' CIDs."""
        due = select(_v.id, _v.record).join(DescriptionRow, _d.version_id == _v.id)
        due = due.where(_d.card_due_at <= now).order_by(_d.card_due_at).limit(limit)
        found = self._session.execute(due)
        return [(VersionId(Hash32(version)), Hash32(record["cidDigest"])) for version, record in found]

    def put_card(self, version: VersionId, card: Card, words: str, agreement: Agreement | None) -> None:
        """Add to a description what the folder states; `words` are found from now on, too."""
        row = self._session.get_one(DescriptionRow, version)
        row.agreement = None if agreement is None else asdict(agreement)
        row.card = {"title": card.title, "summary": card.summary, "tags": list(card.tags)}
        row.card_text, row.card_due_at = card.text, None
        row.search_text = f"{row.search_text}\n{words}"
        self._session.flush()

    def delay_card(self, version: VersionId, due_at: datetime) -> None:
        """Look for the card again at `due_at`."""
        self._session.get_one(DescriptionRow, version).card_due_at = due_at
        self._session.flush()

    # Usage

    def count_answers(self, until: int, limit: int) -> int:
        """Count the answers of up to `limit` receipts that are not counted yet and were served before `until`
        (unix seconds); returns the number of receipts looked at.
        """
        row = VersionUsageRow
        # Serialises counters: the others continue after the receipts that this one counts.
        self._session.execute(select(row.version_id).order_by(row.version_id).limit(1).with_for_update())
        counted = self._session.scalar(select(func.max(row.last_sequence))) or 0
        num_receipts, found = answers_by_version(self._session, counted, until, limit)
        for version, day, num_answers, last in found:
            usage = self._session.get(row, (version, day)) or row(version_id=version, day=day, num_answers=0)
            usage.num_answers, usage.last_sequence = usage.num_answers + num_answers, last
            self._session.add(usage)
        self._session.flush()
        return num_receipts

    def answers_by_day(self, version: VersionId, since: int) -> dict[int, int]:
        """Answers of a version by day (since 1970-01-01) from `since` on. Days without any are absent."""
        row = VersionUsageRow
        query = select(row.day, row.num_answers).where(row.version_id == version, row.day >= since)
        return {day: number for day, number in self._session.execute(query)}  # noqa: C416 - rows are no pairs

    def forget_usage(self, before: int) -> None:
        """Delete the counts of days before this one, but for the row that says how far was counted."""
        row = VersionUsageRow
        newest = select(func.max(row.last_sequence)).scalar_subquery()
        self._session.execute(delete(row).where(row.day < before, row.last_sequence < newest))

    def _denied(self, kind: Denied) -> Sequence[str]:
        return self._session.scalars(select(DenialRow.subject).where(DenialRow.kind == kind)).all()

    def _follows(
        self, found: Select[Any], keys: Sequence[ColumnElement[Any]], after: VersionId, *, is_descending: bool
    ) -> ColumnElement[bool]:
        """Condition of the rows that come after version `after`."""
        last = self._session.execute(found.with_only_columns(*keys).where(_v.id == after)).one_or_none()
        if last is None:
            raise InvalidInput(
                "`after` is not a cursor of this list, or its model is not listed any more; omit it for the "
                "first page.",
                param="after",
            )
        here = tuple_(*keys)
        there = tuple_(*(literal(value, key.type) for value, key in zip(last, keys, strict=True)))
        return here < there if is_descending else here > there


def _newest(served: Served, denied_datanets: Sequence[int]) -> Subquery:
    """Ids of the newest servable version of each name, and of each base model's newest record."""
    denial, snapshot = table_of(DenialRow).c, table_of(SnapshotRow).c
    denied_adapters = select(denial.subject).where(denial.kind == Denied.ADAPTER)
    names_snapshot = cast(_v.record, Text).contains(snapshot.id)
    of_denied_datanet = exists().where(snapshot.datanet.in_(denied_datanets), names_snapshot)
    is_denied = or_(_v.adapter_digest.in_(denied_adapters), of_denied_datanet.correlate(VersionRow))
    own = (case((_is_bare, ""), else_=column) for column in (_v.creator, _v.name))
    group = [_is_bare, case((_is_bare, _v.base_model), else_=""), *own]
    rank = func.row_number().over(partition_by=group, order_by=(_v.block_number.desc(), _v.log_index.desc()))
    ours = or_(*(and_(_v.base_model == base.digest, _v.creator == base.creator) for base in served.bases))
    is_our_base = and_(ours, _v.name != TRAINING_NAME)
    ranked = (
        select(_v.id, rank.label("rank"))
        .where(_v.base_model.in_([base.digest for base in served.bases]), not_(_v.is_deprecated))
        .where(case((ours, _reaches(served.floor, *_OWN)), else_=_reaches(served.floor, *_OTHERS)))
        .where(or_(and_(_is_bare, is_our_base), and_(not_(_is_bare), not_(is_denied))))
        .subquery()
    )
    return select(ranked.c.id).where(ranked.c.rank == 1).subquery()


def _reaches(
    floor: FloorPrice, prompt: ColumnElement[int], completion: ColumnElement[int]
) -> ColumnElement[bool]:
    return and_(prompt >= floor.prompt, completion >= floor.completion)


def _described(usage: Subquery) -> Select[Any]:
    """Versions with their descriptions, registration times and numbers of answers."""
    is_event = and_(_e.block_number == _v.block_number, _e.log_index == _v.log_index)
    return (
        select(
            table_of(VersionRow),
            *(c for c in _d if c.name not in _LONG),
            _e.timestamp,
            usage.c.num_answers,
        )
        .select_from(VersionRow)
        .outerjoin(DescriptionRow, _d.version_id == _v.id)
        .outerjoin(EventRow, is_event)
        .outerjoin(usage, usage.c.version_id == _v.id)
    )


def _usage(since: int) -> Subquery:
    row = VersionUsageRow
    total = func.sum(row.num_answers).label("num_answers")
    return select(row.version_id, total).where(row.day >= since).group_by(row.version_id).subquery()


def _has_tag(tag: str) -> ColumnElement[bool]:
    """Tags are the last part of the card's JSON. Quotes in its texts are escaped there, so that none of them
    looks like the beginning of the tags or like a tag.
    """
    quoted = json.dumps(tag.lower())
    for special in "/%_":
        quoted = quoted.replace(special, f"/{special}")
    return func.lower(cast(_d.card, Text)).like(f'%"tags": [%{quoted}%', escape="/")


def _conditions(
    query: ModelQuery, served: Served, denied_folders: Sequence[str]
) -> list[ColumnElement[bool]]:
    names = ((and_(_is_bare, _v.base_model == one.digest), one.name.casefold()) for one in served.bases)
    name = case(*names, else_=_v.creator + "/" + _v.name)
    is_denied = _v.record["cidDigest"].as_string().in_(denied_folders)
    text = name + " " + case((is_denied, ""), else_=func.coalesce(_d.search_text, ""))
    found: list[ColumnElement[bool]] = [text.contains(word, autoescape=True) for word in query.words]
    if query.licences is not None:
        found.append(_d.licence.in_(query.licences))
    if query.tag is not None:
        found += [_has_tag(query.tag), not_(is_denied)]
    if query.max_price is not None:
        found += [price <= query.max_price for price in (_v.prompt_price, _v.completion_price)]
    if query.is_active is not None:
        is_active = or_(_is_bare, _v.adapter_digest.in_(served.active_adapters))
        found.append(is_active if query.is_active else not_(is_active))
    return found


def _keys(sort: Sort | None, usage: Subquery) -> tuple[list[ColumnElement[Any]], bool]:
    """Expressions that order the list, the last one unique, and whether the order is descending."""
    registration = [_v.block_number, _v.log_index, _v.id]
    match sort:
        case None:
            return [case((_is_bare, 0), else_=1), *registration], False
        case Sort.NEWEST:
            return [*registration], True
        case Sort.PRICE:
            return [_v.completion_price, _v.prompt_price, _v.id], False
        case Sort.QUALITY:
            return [func.coalesce(_d.quality, _LEAST), _v.id], True
        case Sort.USAGE:
            return [func.coalesce(usage.c.num_answers, 0), _v.id], True


def _listed(row: Any) -> ListedVersion:
    return ListedVersion(_registered(row), row.timestamp or 0, _description(row), int(row.num_answers or 0))


def _registered(row: Any) -> RegisteredVersion:
    return RegisteredVersion(VersionId(Hash32(row.id)), record_of(row), row.is_deprecated, row.block_number)


def _description(row: Any) -> Description:
    if row.version_id is None:
        return Description()
    return Description(
        licence=row.licence,
        parents=None if row.parents is None else tuple(row.parents),
        num_contributions=row.num_contributions,
        licences=tuple(row.licences),
        metrics=row.metrics,
        card=None if row.card is None else _card(row),
        agreement=None if row.agreement is None else Agreement(**row.agreement),
    )


def _card(row: Any) -> Card:
    stored = row.card
    return Card(stored["title"], stored["summary"], tuple(stored["tags"]), getattr(row, "card_text", None))
