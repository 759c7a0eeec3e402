from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.domain.ids import ZERO_HASH, VersionId
from backend.domain.money import PPM, mul_ppm_down
from backend.domain.receipt import Share, Slice
from backend.domain.split import charge, slice_charges, split
from tests.support.market import Market

ppms = st.lists(st.integers(1, 10_000), min_size=1, max_size=256)
amounts = st.integers(0, (1 << 128) - 1)


def shares_of(weights: list[int]) -> tuple[Share, ...]:
    parts = [w * PPM // sum(weights) or 1 for w in weights]
    parts[parts.index(max(parts))] += PPM - sum(parts)
    return tuple(Share(3 * i, ppm) for i, ppm in enumerate(parts))


@given(amounts, st.integers(0, PPM), st.integers(0, PPM), st.data())
def test_parts_sum_to_the_charge(amount: int, fee: int, operator: int, data: st.DataObject) -> None:
    creator = data.draw(st.integers(0, PPM - operator))
    shares = shares_of(data.draw(ppms)) if data.draw(st.booleans()) else ()
    parts = split(amount, fee, operator, creator, shares)
    flat = (parts.fee, parts.operator, parts.creator, *parts.contributors)
    assert sum(flat) == amount
    assert all(part >= 0 for part in flat)
    assert len(parts.contributors) == max(len(shares), 1)


@given(amounts, ppms)
def test_the_remainder_has_one_owner_the_first_of_the_largest(amount: int, weights: list[int]) -> None:
    shares = shares_of(weights)
    parts = split(amount, 0, 0, 0, shares).contributors
    owner = max(range(len(shares)), key=lambda i: (shares[i].ppm, -i))
    for i, share in enumerate(shares):
        exact = mul_ppm_down(amount, share.ppm)
        assert parts[i] == exact if i != owner else exact <= parts[i] < exact + len(shares)


@given(st.integers(1, 10**15), st.integers(0, PPM), st.integers(0, PPM))
def test_a_higher_fee_never_exceeds_the_whole(amount: int, fee: int, operator: int) -> None:
    parts = split(amount, fee, operator, PPM - operator, ())
    assert parts.fee + parts.operator + parts.creator <= amount


def test_a_blend_is_charged_slice_by_slice_rounded_down() -> None:
    market = Market()
    records = list(market.records.values())[:3]
    slices = [Slice(VersionId(ZERO_HASH), w, ()) for w in (333_333, 333_333, 333_334)]
    tokens = [7 * r.prompt_price + 11 * r.completion_price for r in records]
    expected = [t * s.weight_ppm // PPM for t, s in zip(tokens, slices, strict=True)]
    assert slice_charges(slices, records, 7, 11) == tuple(expected)
    assert charge(slices, records, 7, 11) == sum(expected)


def test_small_answers_leave_each_contributor_within_a_unit_of_the_exact_share() -> None:
    shares = (Share(0, 1), Share(1, 333_333), Share(2, 666_666))
    earned = [0, 0, 0]
    for amount in range(1, 10_001):
        for j, part in enumerate(split(amount, 50_000, 200_000, 300_000, shares).contributors):
            earned[j] += part
    pool = sum(earned)
    unit = 1_000_000
    assert all(abs(e - mul_ppm_down(pool, s.ppm)) < unit for e, s in zip(earned, shares, strict=True))
