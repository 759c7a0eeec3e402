from __future__ import annotations

import csv
from types import SimpleNamespace
from typing import Any

from backend.api.routers.earning_entries import Subject
from backend.domain.earnings import EarningFilter
from backend.services.accounts.credit_walk import Position
from backend.services.accounts.earnings import EarningsPage, Unverifiable
from backend.web.views.earnings import get_csv
from backend.web.visitor import Visitor
from tests.support.market import some_account, some_hash

REST = Position(some_account("b"), some_hash("batch"), 0, 1)


async def test_the_file_names_operators_that_later_pages_leave_out() -> None:
    first, second = (Unverifiable(some_account(name), "its data is missing") for name in "ab")
    pages = {None: EarningsPage((), REST, (first,)), REST: EarningsPage((), None, (first, second))}
    services: Any = SimpleNamespace(
        earnings=SimpleNamespace(entries=lambda _query, start, _limit: pages[start])
    )
    visitor = Visitor(some_account("earner"), "token")
    response: Any = get_csv(services, visitor, Subject({}, EarningFilter()))
    rows = list(csv.DictReader("".join([piece async for piece in response.body_iterator]).splitlines()))
    assert sorted(row["operator"] for row in rows) == sorted([first.operator, second.operator])
    assert {(row["state"], row["amount_micro_units"]) for row in rows} == {("unverifiable", "")}
