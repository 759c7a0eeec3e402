"""Keyset pagination, newest first: pages stay consistent while rows are added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, or_

from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Select
    from sqlalchemy.orm import Session


def newest_first(
    session: Session, query: Select[Any], table: Any, after: str | None, limit: int
) -> Iterable[Any]:
    """Up to `limit` rows of `query` that come after row `after`. The table has `id` and `created_at`.

    Errors: `InvalidInput` if `query` does not include row `after`.
    """
    if after is not None:
        last = session.scalar(query.where(table.id == after))
        if last is None:
            raise InvalidInput("`after` is not an id of this list, or its object was deleted.", param="after")
        is_same = table.created_at == last.created_at
        query = query.where(or_(table.created_at < last.created_at, and_(is_same, table.id > last.id)))
    return session.scalars(query.order_by(table.created_at.desc(), table.id).limit(limit))
