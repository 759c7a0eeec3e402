"""Cursor pagination of lists: `limit` items after the item that the cursor `after` names.

A cursor names an item instead of an offset, so items that are added during a walk do not shift its pages.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, TypeVar

from fastapi import Depends, Query

from backend.api.schemas.common import INTEGERS_END, MAX_ITEMS, Page
from backend.domain.errors import InvalidInput

T = TypeVar("T")
V = TypeVar("V")


def _wrong_cursor() -> InvalidInput:
    return InvalidInput(
        "`after` is not a cursor of this list, or its item no longer exists; omit it for the first page.",
        param="after",
    )


@dataclass(frozen=True, slots=True)
class Paging:
    """`after`: key of the last item of the previous page; None for the first page."""

    after: str | None
    limit: int

    @property
    def after_number(self) -> int | None:
        """`after` of lists whose items are numbered."""
        if self.after is None:
            return None
        if not self.after.isdecimal() or len(self.after) > 19 or int(self.after) >= INTEGERS_END:
            raise _wrong_cursor()
        return int(self.after)

    def page(self, found: Sequence[T], name: Callable[[T], object], view: Callable[[T], V]) -> Page[V]:
        """`found`: items after the cursor, at least `limit + 1` if there is another page."""
        items = found[: self.limit]
        has_more = len(found) > self.limit
        return Page(
            data=[view(item) for item in items], next_cursor=_cursor(name(items[-1])) if has_more else None
        )

    def page_of_all(
        self, everything: Sequence[T], name: Callable[[T], object], view: Callable[[T], V]
    ) -> Page[V]:
        """Page of a complete list."""
        start = 0
        if self.after is not None:
            last = next((n for n, item in enumerate(everything) if str(name(item)) == self.after), None)
            if last is None:
                raise _wrong_cursor()
            start = last + 1
        return self.page(list(islice(everything, start, start + self.limit + 1)), name, view)


class CursorOfAnotherQuery(InvalidInput):
    """The cursor is of a query with other parameters."""


class QueryCursors:
    """Cursors that only the query that they come from accepts. `parameters`: all of the query but its cursor
    and limit.
    """

    def __init__(self, parameters: object) -> None:
        text = json.dumps(parameters, sort_keys=True, default=str)
        self._digest = hashlib.sha256(text.encode()).hexdigest()[:16]

    def write(self, place: object) -> str:
        return _cursor(f"{self._digest}:{place}")

    def read(self, cursor: str, parse: Callable[[str], T]) -> T:
        """The place that a cursor names. Errors: `CursorOfAnotherQuery`; `InvalidInput`, also where `parse`
        raises ValueError.
        """
        digest, _, place = _name(cursor).partition(":")
        try:
            found = parse(place)
        except ValueError:
            raise _wrong_cursor() from None
        if digest != self._digest:
            raise CursorOfAnotherQuery(
                "`after` is a cursor of a query with other parameters: repeat those of its page, or omit "
                "`after` for the first page.",
                param="after",
            )
        return found


def get_paging(
    after: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the previous page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_ITEMS)] = 20,
) -> Paging:
    return Paging(None if after is None else _name(after), limit)


PagingDep = Annotated[Paging, Depends(get_paging)]


def _cursor(name: object) -> str:
    return base64.urlsafe_b64encode(str(name).encode()).decode().rstrip("=")


def _name(cursor: str) -> str:
    try:
        name = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _wrong_cursor() from None
    if not name.isprintable():
        raise _wrong_cursor()
    return name
