"""What an answer for the own operator may cost."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.money import UNIT
from backend.services.watch.answers import Answers
from tests.support.market import some_account, some_demand, some_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OWN, OTHER = some_account("own"), some_account("other")
COIN = 10**18


def batch(number: int, slash_up_to: int) -> Any:
    header = {"slashUpTo": str(slash_up_to)}
    return SimpleNamespace(hash=some_hash(f"batch {number}"), number=number, operator=OWN, header=header)


class World:
    """Three open leaves: two of a batch of little cover, one of a later one of more."""

    def __init__(self) -> None:
        small, large = batch(1, 3 * UNIT), batch(2, 9_003 * UNIT)
        self.batches = {one.hash: one for one in (small, large)}
        of = (small, small, large)
        self.demands = [some_demand(OWN, one.hash, key=key) for key, one in enumerate(of)]
        self.worth: list[int | None] = []
        self.chain = self

    @contextmanager
    def read(self) -> Iterator[Any]:
        yield self

    def head(self) -> Any:
        return SimpleNamespace(timestamp=0, number=0)

    def open_demands(self, _: str) -> Sequence[Any]:
        return self.demands

    def open_batches(self, _: str) -> list[Any]:
        return list(self.batches.values())

    def batch(self, batch_hash: str) -> Any:
        return self.batches[batch_hash]

    def call(self, *_: Any) -> dict[str, int]:
        return {"slashed": 3 * UNIT}

    def send(self, calls: Sequence[Any], worth: int | None) -> list[Any]:
        self.worth.append(worth)
        return [SimpleNamespace(reverted="DemandClosed") for _ in calls]  # another account answered


@pytest.mark.parametrize(
    ("own", "coin_units", "shares"),
    [(OWN, 3, [1_500 * COIN, 1_000 * COIN]), (OWN, None, [None, None]), (OTHER, 3, [0, 0])],
    ids=["a half and a third of the largest cover", "any price", "of another operator"],
)
def test_an_answer_is_worth_its_part_of_what_a_void_would_slash(
    own: Any, coin_units: int | None, shares: list[int | None]
) -> None:
    """A void of the first batch takes the second along, which required more cover. Demands on the second do
    not matter to the first.
    """
    world: Any = World()
    answers = Answers(world, world, world, world, own, coin_units)
    answers.calls = lambda _, demands: iter(demands)  # type: ignore[assignment, method-assign]
    list(answers.answer(OWN))
    credit = world.demands[0].credit if own == OWN else 0
    assert world.worth == [None if share is None else share + credit for share in shares]
