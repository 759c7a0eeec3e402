"""What forms of pages send."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, model_validator


class PageForm(BaseModel):
    """Fields that are left empty take their defaults."""

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value != ""}
