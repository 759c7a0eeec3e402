from __future__ import annotations

import pytest

from backend.domain.earnings import EarningState, Role, earning_state, role_of
from backend.domain.money import UNIT
from backend.domain.settlement import BatchState

COMMITTED, FINAL, VOID = BatchState.COMMITTED, BatchState.FINAL, BatchState.VOID


@pytest.mark.parametrize(
    ("batch", "balance", "claimed", "expected"),
    [
        (COMMITTED, 5 * UNIT, 9 * UNIT, EarningState.PENDING),
        (VOID, 5 * UNIT, 9 * UNIT, EarningState.VOID),
        (FINAL, 5 * UNIT, 0, EarningState.FINAL),
        (FINAL, 5 * UNIT, 4 * UNIT, EarningState.FINAL),
        (FINAL, 5 * UNIT, 5 * UNIT, EarningState.CLAIMED),
        (FINAL, 6 * UNIT - 1, 5 * UNIT, EarningState.CLAIMED),
        (FINAL, 6 * UNIT, 5 * UNIT, EarningState.FINAL),
        (FINAL, 1, 0, EarningState.FINAL),
        (FINAL, 1, UNIT, EarningState.CLAIMED),
    ],
)
def test_a_credit_is_claimed_once_claims_reach_the_balance_after_it_in_whole_units(
    batch: BatchState, balance: int, claimed: int, expected: EarningState
) -> None:
    assert earning_state(batch, balance, claimed) is expected


def test_parts_pay_roles() -> None:
    first = [Role.FEE, Role.OPERATOR, Role.CREATOR]
    assert [role_of(part, has_contributors=True) for part in range(5)] == [*first, *[Role.CONTRIBUTOR] * 2]
    assert [role_of(part, has_contributors=False) for part in range(4)] == [*first, Role.POOL]
