from __future__ import annotations

from datetime import date

from backend.api.schemas.common import Micro, View
from backend.domain.serving import DayUsage


class UsedVersionView(View):
    """`/v1/models/{version_id}` has its name and price."""

    version_id: str
    weight_ppm: int


class DayUsageView(View):
    """Answers of one day by one model; a blend of several versions is a model of its own."""

    day: date
    versions: list[UsedVersionView]
    num_answers: int
    prompt_tokens: int
    completion_tokens: int
    spend_micro_units: Micro

    @classmethod
    def of(cls, usage: DayUsage) -> DayUsageView:
        versions = [UsedVersionView(version_id=v, weight_ppm=ppm) for v, ppm in usage.versions]
        return cls(
            day=usage.day,
            versions=versions,
            num_answers=usage.num_answers,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            spend_micro_units=usage.spend,
        )
