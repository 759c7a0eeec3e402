"""Builds domain objects from rows by field name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def columns_of(entity: Any, kind: type[DataclassInstance]) -> Sequence[Any]:
    """The entity's columns for the fields of dataclass `kind`, in their order. `kind(*row)` is a row of them
    in a quarter of the time that `from_row` takes.
    """
    return [getattr(entity, name) for name in kind.__dataclass_fields__]


def from_row(kind: type[T], row: Any, **values: Any) -> T:
    """Build dataclass `kind` from an ORM object or a result row.

    `values` supplies fields; every other field is the column of the same name. Ids need no conversion: the
    NewTypes of `backend.domain.ids` are plain strings at run time.
    """
    fields = kind.__dataclass_fields__
    columns = {name: getattr(row, name) for name in fields if name not in values}
    return kind(**columns, **values)
