from __future__ import annotations

from datetime import date
from typing import Any

from pydantic import model_validator

from backend.api.schemas.common import Amount, View


class UsedVersionView(View):
    """A version and its share of the tokens. `/v1/models/{version_id}` has its name and price."""

    version_id: str
    weight_ppm: int

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, value: Any) -> Any:
        return dict(zip(cls.model_fields, value, strict=True)) if isinstance(value, tuple) else value


class DayUsageView(View):
    """Usage of one model on one day (UTC). A blend of several versions counts as a separate model."""

    day: date
    versions: list[UsedVersionView]
    num_answers: int
    prompt_tokens: int
    completion_tokens: int
    spend: Amount
