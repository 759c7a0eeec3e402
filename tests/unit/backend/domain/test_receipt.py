from __future__ import annotations

import pytest

from backend.domain.hashing import pack_list
from backend.domain.receipt import PackedShares, Share, columns

SHARES = [Share(1 << 24 | 2, 400_000), Share(2 << 24, 350_000), Share(2 << 24 | 1, 250_000)]


def test_shares_are_packed_from_their_columns() -> None:
    packed = PackedShares.of(*columns(SHARES))
    assert packed.packed == pack_list(SHARES)
    assert PackedShares.of([], []) == ()


@pytest.mark.parametrize("index", [0, 2, -1, -3, slice(1, None), slice(None, None, -2)])
def test_packed_shares_are_indexed_as_a_list_is(index: int | slice) -> None:
    expected = SHARES[index]
    assert PackedShares(pack_list(SHARES))[index] == (
        tuple(expected) if isinstance(expected, list) else expected
    )


@pytest.mark.parametrize("index", [3, -4])
def test_packed_shares_have_none_outside(index: int) -> None:
    with pytest.raises(IndexError):
        PackedShares(pack_list(SHARES))[index]


def test_one_packed_share_is_read_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are looked up one by one, of lists of up to 256 shares."""
    monkeypatch.delattr(PackedShares, "__iter__")
    monkeypatch.setattr("backend.domain.receipt.columns", None)
    assert PackedShares(pack_list(SHARES))[1] == SHARES[1]
