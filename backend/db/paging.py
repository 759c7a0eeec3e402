"""Keyset pagination: pages stay consistent while rows are added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, or_, tuple_

from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session


def newest_first(
    session: Session,
    query: Select[Any],
    table: Any,
    after: str | None,
    limit: int,
    *conditions: ColumnElement[bool],
) -> Iterable[Any]:
    """Up to `limit` rows of `query` that come after row `after` and meet the conditions, which `after` need
    not: it may have changed since it was listed. The table has `id` and `created_at`.

    Errors: `InvalidInput` if `query` does not include row `after`.
    """
    if after is not None:
        last = session.scalar(query.where(table.id == after))
        if last is None:
            raise _not_listed()
        is_same = table.created_at == last.created_at
        query = query.where(or_(table.created_at < last.created_at, and_(is_same, table.id > last.id)))
    ordered = query.where(*conditions).order_by(table.created_at.desc(), table.id)
    return session.scalars(ordered.limit(limit))


def in_chain_order(
    session: Session,
    query: Select[Any],
    table: Any,
    after: tuple[Any, Any] | None,
    limit: int | None,
    *,
    is_newest_first: bool = False,
) -> Iterable[Any]:
    """Up to `limit` rows (None: all) of `query`, whose `table` is a projection of the chain, by their place
    on the chain. `after`: a column and its value in the row that they follow.

    Errors: `InvalidInput` if `query` does not include that row.
    """
    place = tuple_(table.block_number, table.log_index)
    if after is not None:
        column, value = after
        last = session.scalar(query.where(column == value))
        if last is None:
            raise _not_listed()
        last_place = tuple_(last.block_number, last.log_index)
        query = query.where(place < last_place if is_newest_first else place > last_place)
    columns = (table.block_number, table.log_index)
    order = [column.desc() for column in columns] if is_newest_first else columns
    return session.scalars(query.order_by(*order).limit(limit))


def _not_listed() -> InvalidInput:
    return InvalidInput("`after` is not an id of this list, or its object was deleted.", param="after")
