from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.hashing import keccak
from backend.domain.merkle import (
    BALANCES_TAG,
    ENTRIES_TAG,
    MAX_SUM,
    NODE,
    FoldedTree,
    InvalidOpening,
    SumTree,
    resolve,
)

TAG = ENTRIES_TAG


def leaves_of(count: int) -> list[tuple[bytes, int]]:
    return [(keccak(b"%d" % i), 3 * i * i + 1) for i in range(count)]


def reference_root(leaves: list[tuple[bytes, int]]) -> tuple[int, bytes]:
    """A plain implementation, by pairs."""
    level = [(value, keccak(TAG + key)) for key, value in leaves]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        joined = [
            (a[0] + b[0], keccak(a[0].to_bytes(16, "big") + a[1] + b[0].to_bytes(16, "big") + b[1]))
            for a, b in pairs
        ]
        level = joined + level[len(joined) * 2 :]
    return level[0]


@pytest.mark.parametrize("count", range(1, 71))
def test_every_opening_yields_root_total_and_prefix(count: int) -> None:
    leaves = leaves_of(count)
    tree = SumTree(TAG, leaves)
    assert (tree.total, tree.root) == reference_root(leaves)
    for index, (key, value) in enumerate(leaves):
        opening = tree.open(index)
        opened = resolve(TAG, key, count, opening)
        assert (opening.value, opened.root, opened.total) == (value, tree.root, tree.total)
        assert opened.prefix == sum(v for _, v in leaves[:index])


@given(st.data())
def test_no_changed_opening_leads_to_the_root(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 40))
    index = data.draw(st.integers(0, count - 1))
    leaves, tree = leaves_of(count), SumTree(TAG, leaves_of(count))
    honest = tree.open(index)
    path = bytearray(honest.path)
    path[data.draw(st.integers(0, len(path) - 1))] ^= data.draw(st.integers(1, 255))
    changed = data.draw(
        st.sampled_from(
            [
                replace(honest, value=honest.value + 1),
                replace(honest, path=bytes(path)),
                replace(honest, path=honest.path[:-NODE]),
                replace(honest, path=honest.path + bytes(NODE)),
                replace(honest, index=(index + 1) % count),
            ]
        )
    )
    try:
        opened = resolve(TAG, leaves[index][0], count, changed)
    except InvalidOpening:
        return
    assert (opened.root, opened.total) != (tree.root, tree.total)


def test_a_leaf_of_one_tree_does_not_open_in_another() -> None:
    tree = SumTree(TAG, leaves_of(5))
    assert resolve(BALANCES_TAG, leaves_of(5)[2][0], 5, tree.open(2)).root != tree.root


@pytest.mark.parametrize("path", [b"", bytes(NODE), bytes(2 * NODE - 1), bytes(3 * NODE)])
def test_a_path_of_another_length_is_refused(path: bytes) -> None:
    opening = replace(SumTree(TAG, leaves_of(4)).open(1), path=path)
    with pytest.raises(InvalidOpening):
        resolve(TAG, leaves_of(4)[1][0], 4, opening)


def test_an_index_outside_the_tree_is_refused() -> None:
    tree = SumTree(TAG, leaves_of(4))
    with pytest.raises(IndexError):
        tree.open(4)
    with pytest.raises(InvalidOpening):
        resolve(TAG, leaves_of(4)[0][0], 4, replace(tree.open(0), index=4))


def test_sums_beyond_uint128_are_refused() -> None:
    with pytest.raises(ValueError, match="uint128"):
        SumTree(TAG, [(bytes(32), MAX_SUM), (bytes(32), 1)])
    opening = replace(SumTree(TAG, leaves_of(2)).open(0), value=MAX_SUM)
    with pytest.raises(InvalidOpening):
        resolve(TAG, leaves_of(2)[0][0], 2, opening)


def test_a_tree_has_a_leaf() -> None:
    with pytest.raises(ValueError, match="at least one leaf"):
        SumTree(TAG, [])


def folded_tree(leaves: list[tuple[bytes, int]]) -> FoldedTree:
    return FoldedTree(TAG, len(leaves), lambda start, stop: leaves[start:stop])


@pytest.mark.parametrize("count", [1, 2, 3, 31, 32, 33, 64, 65, 97, 200])
def test_a_folded_tree_equals_one_that_stores_all_nodes(count: int) -> None:
    leaves = leaves_of(count)
    whole, folded = SumTree(TAG, leaves), folded_tree(leaves)
    assert (folded.root, folded.total, folded.count) == (whole.root, whole.total, whole.count)
    for index in range(count):
        assert folded.open(index) == whole.open(index)
        assert folded.value(index) == whole.value(index) == leaves[index][1]
        before = sum(value for _, value in leaves[:index])
        assert folded.sum_before(index) == whole.sum_before(index) == before
    places = [(level, index) for level in range(10) for index in range(count + 1)]
    assert [folded.node(*place) for place in places] == [whole.node(*place) for place in places]


def test_a_folded_tree_has_leaves_and_a_sum_that_fits() -> None:
    for leaves in ([], [(bytes(32), MAX_SUM), (bytes(32), 1)]):
        with pytest.raises(ValueError, match="at least one leaf" if not leaves else "exceeds uint128"):
            folded_tree(leaves)
