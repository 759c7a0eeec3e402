from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from backend.client.earnings import entries, entries_csv, summary

if TYPE_CHECKING:
    from backend.client.api import ApiClient

OPERATORS = ["one", "one", "other"]
"""Of each of three pages, the operator that it cannot list."""


class Pages:
    """A client of a market that lists three pages without entries."""

    def get(self, path: str, *, after: str = "0", **_: Any) -> dict[str, Any]:
        page = int(after)
        return {
            "account": "a",
            "by": "day",
            "data": [],
            "unverifiable": [{"operator": OPERATORS[page], "reason": "too many entries"}],
            "next_cursor": str(page + 1) if page < 2 else None,
        }

    def send(self, method: str, path: str, **_: Any) -> httpx.Response:
        page = int(path.partition("after=")[2] or 0)
        headers = {"x-unverifiable-operators": OPERATORS[page]}
        if page < 2:
            headers["link"] = f'</entries?after={page + 1}>; rel="next"'
        return httpx.Response(200, headers=headers)


def test_operators_that_any_page_lacks_are_named_once() -> None:
    client: ApiClient = Pages()  # type: ignore[assignment]
    noticed: list[list[str]] = []
    list(entries_csv(client, noticed.append))
    assert noticed == [["one"], ["other"]]
    for unverifiable in (entries(client)[1], summary(client, "day")["unverifiable"]):
        assert [one["operator"] for one in unverifiable] == ["one", "other"]
