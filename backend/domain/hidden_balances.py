"""The balances of a parent whose data was withheld, brought out leaf by leaf."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from backend.domain.batch import Ledger
from backend.domain.disputes import MAX_KEYS
from backend.domain.ids import Account
from backend.domain.lookups import is_of

if TYPE_CHECKING:
    from backend.domain.batch import Header
    from backend.domain.hidden_tree import Opened

_ACCOUNTS = 1 << 160


class HiddenBalances:
    """What demands showed of a batch's balances."""

    def __init__(self, header: Header, opened: Opened) -> None:
        self._header, self._opened = header, opened

    def ledger(self) -> Ledger | None:
        """After the batch, once every leaf is open. Of the channels it knows nothing."""
        leaves = self._opened.leaves
        if len(leaves) < self._opened.root.count:
            return None
        balances = {account_of(key): opening.value for key, opening in leaves.values()}
        header = self._header
        ledger = Ledger(header.number, header.hash, header.final_at, header.cumulative_total, balances)
        return ledger if is_of(ledger.balances_tree(), self._opened.root) else None

    def next_keys(self) -> list[int]:
        """Between each two open leaves that have others between them, as many keys as there may be leaves.

        The first of them is the smallest that can be there, so each round brings out one leaf at least.
        """
        leaves, count = self._opened.leaves, self._opened.root.count
        known = [(-1, -1), *((index, leaves[index][0]) for index in sorted(leaves)), (count, _ACCOUNTS)]
        wanted: list[int] = []
        for (left, low), (right, high) in pairwise(known):
            num = min(right - left - 1, MAX_KEYS, high - low - 1)
            wanted += [low + 1 + i * (high - low - 1) // num for i in range(num)]
        return [key for key in wanted if self._opened.get(key) is None]


def account_of(key: int) -> Account:
    return Account(f"0x{key:040x}")
