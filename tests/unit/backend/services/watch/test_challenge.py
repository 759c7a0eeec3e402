from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.chain import BlockRef
from backend.domain.disputes.witnesses import Tree, key_word
from backend.domain.ids import ChannelId
from backend.domain.settlement import BatchState, CommittedBatch, Demand, PaidSpan
from backend.domain.transactions import CallResult
from backend.services.watch.challenge import Challenge
from tests.support.chain_view import BatchViews
from tests.support.market import parameter_set, some_account, some_demand, some_hash

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from backend.domain.ids import Account, Hash32
    from backend.domain.parameters import ParameterSet
    from backend.domain.transactions import Call
    from backend.services.watch.news import News

OPERATOR, WATCHER = some_account("operator"), some_account("watcher")
WINDOW, COMMITTED_AT = 480, 1_000
BOND = 400
"""Wei that a leaf costs at most; the fake chain has no prices that rise."""
PLENTY = 10**9


def batch(number: int, state: BatchState = BatchState.COMMITTED) -> CommittedBatch:
    header = {
        "operator": OPERATOR,
        "number": number,
        "parameterSet": 1,
        "committedAt": COMMITTED_AT,
        "finalAt": COMMITTED_AT + WINDOW,
    }
    return CommittedBatch(
        OPERATOR, number, some_hash(f"batch {number}"), header, state, some_hash("tx"), number
    )


def demanded(of: CommittedBatch, key: int, tree: Tree = Tree.RECEIPTS, **fields: Any) -> Demand:
    return some_demand(OPERATOR, of.hash, tree, key, **({"challenger": WATCHER, "bond": BOND} | fields))


@dataclass
class FakeView(BatchViews):
    """The part of `ChainView` that challenges use."""

    known: list[CommittedBatch] = field(default_factory=list)
    asked: list[Demand] = field(default_factory=list)

    def parameter_set(self, number: int) -> ParameterSet:
        return parameter_set(number, fee_ppm=0, window=WINDOW)

    def newest_batches(self) -> dict[Account, Hash32]:
        return {OPERATOR: some_hash("newest")}

    def listed(self, operator: Account) -> list[CommittedBatch]:
        return self.known

    def batch(self, batch_hash: Hash32) -> CommittedBatch | None:
        return next((one for one in self.known if one.hash == batch_hash), None)

    def demands(self, *batches: Hash32) -> list[Demand]:
        return [one for one in self.asked if one.batch_hash in batches]

    def open_demands(self, operator: Account) -> list[Demand]:
        return sorted(self.asked, key=lambda one: one.deadline)

    def spans(self, batch_hash: Hash32) -> tuple[PaidSpan, ...]:
        return (PaidSpan(ChannelId(some_hash("channel")), some_account("payer"), 0, 5, 12),)


@dataclass
class FakeTransactions:
    """Accepts and records every call."""

    account: Account = WATCHER
    money: int = PLENTY
    sent: list[Call] = field(default_factory=list)
    unmined: str = ""
    """A function whose calls stay in the pool."""

    def credit(self) -> int:
        return self.money // 2

    def funds(self) -> int:
        return self.money

    def refusal(self, call: Call) -> str:
        return ""

    def reservation(self, call: Call) -> Hash32:
        return some_hash("reservation")

    def is_on_its_way(self, view: FakeView, contract: str, function: str) -> bool:
        return function == self.unmined and function in self.functions

    def send(self, calls: Sequence[Call]) -> list[CallResult]:
        self.sent += calls
        done = [CallResult(call, some_hash(f"tx {len(self.sent)}")) for call in calls]
        pending = {"error": "it is not mined yet", "is_pending": True}
        return [replace(one, **pending) if one.call.function == self.unmined else one for one in done]

    @property
    def functions(self) -> list[str]:
        return [call.function for call in self.sent]


@dataclass
class FakeChain:
    now: int = COMMITTED_AT
    reserved_at: int = 0

    def head(self) -> BlockRef:
        return BlockRef(1, some_hash("block"), some_hash("parent"), self.now)

    def gas_price(self) -> int:
        return 90

    def call(self, contract: str, function: str, *args: Any) -> Any:
        if function == "bondOf":
            return args[2] * BOND
        return {"reservedAt": self.reserved_at, "stateOf": {"toRefund": 2}}[function]


@dataclass
class FakeProof:
    function: str = "proveBadReceipt"
    args: tuple[Any, ...] = ()


def challenge(
    chain: FakeChain | None = None, transactions: FakeTransactions | None = None, limit: int = PLENTY
) -> Any:
    return Challenge(chain or FakeChain(), transactions or FakeTransactions(), limit)  # type: ignore[arg-type]


def names_of(news: Iterable[News]) -> list[str]:
    return [one.what for one in news]


def test_a_proof_is_reserved_a_block_before_it_is_sent() -> None:
    transactions = FakeTransactions()
    assert names_of(challenge(transactions=transactions).prove(batch(1), FakeProof())) == [
        "reserved",
        "proved",
    ]
    assert transactions.functions == ["reserve", "proveBadReceipt"]


def test_a_reserved_proof_is_not_reserved_again() -> None:
    transactions = FakeTransactions()
    list(challenge(FakeChain(reserved_at=7), transactions).prove(batch(1), FakeProof()))
    assert transactions.functions == ["proveBadReceipt"]


def keys_of(call: Call) -> list[int]:
    return [int(key, 16) for key in call.args[2]]


def test_demands_have_at_most_64_keys_and_repeat_no_leaf() -> None:
    transactions, asked = FakeTransactions(), batch(1)
    others = {"challenger": some_account("another challenger")}
    view = FakeView([asked], [demanded(asked, 0, **others), demanded(asked, 1, is_open=False)])
    wanted = ((Tree.RECEIPTS, tuple(range(100))), (Tree.ENTRIES, (5, 5)))
    made = challenge(transactions=transactions)
    assert names_of(made.demand(view, asked, wanted)) == ["demanded"] * 3
    assert [len(keys_of(call)) for call in transactions.sent] == [64, 34, 1]
    assert sorted(key for call in transactions.sent for key in keys_of(call)) == sorted([*range(2, 100), 5])


def test_nothing_is_demanded_while_a_demand_of_any_batch_is_on_its_way() -> None:
    """The view does not show its bonds, which count towards the limit."""
    transactions = FakeTransactions(unmined="demand")
    made = challenge(transactions=transactions, limit=BOND)
    for asked in (batch(1), batch(2), batch(1)):
        assert names_of(made.demand(FakeView(), asked, ((Tree.RECEIPTS, (0,)),))) == ["pending"]
    assert transactions.functions == ["demand"]


def test_credit_pays_first_and_the_rest_goes_with_the_call() -> None:
    transactions, asked = FakeTransactions(money=6 * BOND), batch(1)
    list(challenge(transactions=transactions).demand(FakeView(), asked, ((Tree.RECEIPTS, range(5)),)))
    (call,) = transactions.sent
    bonds = 5 * BOND
    assert (len(keys_of(call)), call.value) == (5, bonds - 3 * BOND)


def test_a_search_goes_round_by_round_and_others_demands_do_not_hold_it_up() -> None:
    asked = batch(1)
    wanted = ((Tree.ENTRIES, (5, 6)),)
    for challenger, expected in ((WATCHER, []), (some_account("another challenger"), [[5, 6]])):
        view = FakeView([asked], [demanded(asked, 9, Tree.ENTRIES, challenger=challenger)])
        transactions = FakeTransactions()
        list(challenge(transactions=transactions).demand(view, asked, wanted))
        assert list(map(keys_of, transactions.sent)) == expected


def test_the_next_round_begins_with_the_last_answer() -> None:
    asked, transactions = batch(1), FakeTransactions()
    made = challenge(transactions=transactions)
    list(made.demand(FakeView([asked]), asked, ((Tree.ENTRIES, (9, 10)),)))
    answered = [demanded(asked, key, Tree.ENTRIES, is_open=False) for key in (9, 10)]
    view = FakeView([asked], answered)
    assert names_of(made.demand(view, asked, ((Tree.ENTRIES, (5,)),))) == ["demanded"]


def test_open_bonds_and_what_we_hold_bound_new_ones() -> None:
    one, other = batch(1), batch(2)
    for limit, money, expected in ((7 * BOND, PLENTY, 5), (PLENTY, 4 * BOND + 1, 4), (2 * BOND, PLENTY, 0)):
        transactions = FakeTransactions(money=money)
        view = FakeView([one, other], [demanded(one, 0), demanded(one, 1)])
        made = challenge(transactions=transactions, limit=limit)
        assert made.bound(view) == {OPERATOR: 2 * BOND}
        news = names_of(made.demand(view, other, ((Tree.RECEIPTS, tuple(range(9))),)))
        assert news[-1] == "bond_limit"
        assert sum(len(keys_of(call)) for call in transactions.sent) == expected


def test_the_limit_of_bonds_is_for_all_demands_of_a_pass_together() -> None:
    transactions = FakeTransactions()
    made = challenge(transactions=transactions, limit=70 * BOND)
    wanted = ((Tree.RECEIPTS, range(100)), (Tree.ENTRIES, (5,)))
    assert names_of(made.demand(FakeView(), batch(1), wanted)) == ["demanded", "demanded", "bond_limit"]
    assert [len(keys_of(call)) for call in transactions.sent] == [64, 6]


def test_it_demands_unpredictable_receipts() -> None:
    chosen = set()
    for _ in range(20):
        transactions = FakeTransactions()
        made = challenge(transactions=transactions, limit=BOND)
        list(made.demand(FakeView(), batch(1), ((Tree.RECEIPTS, range(1000)),)))
        chosen.add(keys_of(transactions.sent[0])[0])
    assert len(chosen) > 1


def test_short_of_bonds_the_most_telling_leaves_of_other_trees_come_first() -> None:
    transactions = FakeTransactions()
    made = challenge(transactions=transactions, limit=2 * BOND)
    list(made.demand(FakeView(), batch(1), ((Tree.ENTRIES, (9, 4, 7)),)))
    assert keys_of(transactions.sent[0]) == [9, 4]


def test_of_several_late_demands_that_of_the_first_batch_voids() -> None:
    first, second = batch(1), batch(2)
    view = FakeView([first, second], [demanded(second, 0, deadline=10), demanded(first, 0, deadline=11)])
    transactions = FakeTransactions()
    assert names_of(challenge(FakeChain(now=12), transactions).expire(view, OPERATOR)) == ["proved"]
    assert transactions.sent[0].args == (first.header, int(Tree.RECEIPTS), key_word(0))


def test_a_demand_is_not_late_in_its_last_second_or_block() -> None:
    for deadline, block in ((12, 0), (11, 1)):
        view = FakeView([batch(1)], [demanded(batch(1), 0, deadline=deadline, deadline_block=block)])
        assert names_of(challenge(FakeChain(now=12)).expire(view, OPERATOR)) == []


def test_voided_batches_are_refunded_newest_first_and_bonds_are_credited_to_their_owner() -> None:
    void = [batch(n, BatchState.VOID) for n in (3, 4)]
    others = demanded(void[1], 5, challenger=some_account("other"))
    view = FakeView([batch(2), *void], [demanded(void[0], 0), others])
    transactions = FakeTransactions()
    assert names_of(challenge(transactions=transactions).restore(view, OPERATOR, lambda: False)) == [
        "bond_returned",
        "refunded",
        "refunded",
    ]
    assert [call.args[0]["number"] for call in transactions.sent[1:]] == [4, 3]
    assert transactions.sent[1].args[1] == [
        {"payer": some_account("payer"), "before": 0, "from": 5, "until": 12}
    ]


@pytest.mark.parametrize(
    ("num_bonds", "unmined", "sent", "is_unfinished"),
    [
        (17, "", ["returnBond"] * 16, True),
        (16, "returnBond", ["returnBond"] * 16 + ["refund"], True),
        (0, "", ["refund"], True),
        (0, "refund", ["refund"], False),
    ],
)
def test_refunds_end_with_the_turn_and_go_on_in_the_next_pass_unless_they_wait(
    num_bonds: int, unmined: str, sent: list[str], is_unfinished: bool
) -> None:
    """An operator can have thousands of its own batches voided, one of which is refunded in a block."""
    void = [batch(n, BatchState.VOID) for n in (3, 4)]
    transactions = FakeTransactions(unmined=unmined)
    view = FakeView(void, [demanded(void[0], key) for key in range(num_bonds)])
    restored = challenge(transactions=transactions).restore(view, OPERATOR, lambda: True)
    returned: list[bool] = []
    list(_returning(restored, returned))
    assert (transactions.functions, returned) == (sent, [is_unfinished])


def _returning(news: Generator[News, None, bool], returned: list[bool]) -> Iterator[News]:
    returned.append((yield from news))
