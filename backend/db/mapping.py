"""Builds domain objects from rows by field name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def from_row(kind: type[T], row: Any, **values: Any) -> T:
    """Build dataclass `kind` from an ORM object or a result row.

    `values` supplies fields; every other field is the column of the same name. Ids need no conversion: the
    NewTypes of `backend.domain.ids` are plain strings at run time.
    """
    fields = kind.__dataclass_fields__
    columns = {name: getattr(row, name) for name in fields if name not in values}
    return kind(**columns, **values)
