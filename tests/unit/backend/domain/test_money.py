from __future__ import annotations

import pytest

from backend.domain.money import in_dollars


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 dollars"),
        (10**15, "1,000 dollars"),
        (25 * 10**10, "0.25 dollars"),
        (1, "0.000000000001 dollars"),
        ((1 << 128) - 1, "340,282,366,920,938,463,463,374,607.431768211455 dollars"),
    ],
)
def test_an_amount_is_written_to_the_last_micro_unit(amount: int, text: str) -> None:
    assert in_dollars(amount) == text
