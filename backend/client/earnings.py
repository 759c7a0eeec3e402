"""An earner's calls: see why batches credited an account, and claim it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.client.comparison import Chosen
from backend.client.errors import UNSIGNED, reading_answer
from backend.client.signing import AskedCall, Statement
from backend.domain.ids import Account
from backend.domain.money import AMOUNT, in_dollars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import httpx

    from backend.client.api import ApiClient

ENTRIES, SUMMARY = "/v1/earnings/entries", "/v1/earnings/summary"
PAGE = 1000
"""Entries per request, the most that the API returns."""
SUMMED = ("amount", "pending", "final", "claimed")


def pages(client: ApiClient, path: str, **filters: Any) -> Iterator[dict[str, Any]]:
    """All pages of the entries or of a summary. Filters as in the API."""
    cursor: str | None = ""
    while cursor is not None:
        page = client.get(path, **filters, **({"after": cursor} if cursor else {}))
        yield page
        with reading_answer():
            cursor = page["next_cursor"]


def entries(client: ApiClient, **filters: Any) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """All entries, and the operators of which the market cannot verify or list batches."""
    found: list[dict[str, Any]] = []
    unverifiable: dict[str, dict[str, str]] = {}
    for page in pages(client, ENTRIES, limit=PAGE, **filters):
        with reading_answer():
            found.extend(page["data"])
            unverifiable |= _by_operator(page)
    return found, list(unverifiable.values())


def entries_csv(
    client: ApiClient, notice: Callable[[list[str]], object] = lambda _: None, **filters: Any
) -> Iterator[str]:
    """All entries as the pieces of one CSV file, with one header line. `notice` is called with the operators
    of which the market cannot verify or list batches, and leaves these out.
    """
    response = client.send("GET", ENTRIES, params={"format": "csv", "limit": PAGE, **filters})
    known = _unverifiable(response)
    if known:
        notice(known)
    yield _csv(response)
    while following := response.links.get("next", {}).get("url"):
        # Only the query of the link is used, so that the market cannot choose another path.
        response = client.send("GET", f"{ENTRIES}?{following.partition('?')[2]}")
        if more := [one for one in _unverifiable(response) if one not in known]:
            notice(more)
            known = [*known, *more]
        yield _csv(response).partition("\r\n")[2]


def _unverifiable(response: httpx.Response) -> list[str]:
    found: str = response.headers.get("x-unverifiable-operators", "")
    return found.split(",") if found else []


def _csv(response: httpx.Response) -> str:
    """Decode the body as UTF-8, which the API sends, and ignore the charset of the header."""
    return response.content.decode(errors="replace")


def summary(client: ApiClient, by: str, **filters: Any) -> dict[str, Any]:
    """Sums of all entries by `day`, `adapter`, `contribution` or `operator`: those of all pages together."""
    groups: dict[str | None, dict[str, Any]] = {}
    found: dict[str, Any] = {}
    unverifiable: dict[str, dict[str, str]] = {}
    for page in pages(client, SUMMARY, by=by, **filters):
        with reading_answer():
            found = {name: page[name] for name in ("account", "by")}
            unverifiable |= _by_operator(page)
            for group in page["data"]:
                known = groups.get(group["key"])
                groups[group["key"]] = group if known is None else _added(known, group)
    with reading_answer():
        data = sorted(groups.values(), key=lambda group: AMOUNT.read(group["amount"]), reverse=True)
    if by == "day":
        data.sort(key=lambda group: str(group["key"]), reverse=True)
    return found | {"unverifiable": list(unverifiable.values()), "data": data}


def _by_operator(page: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The operators whose entries a page lacks; another page may name others."""
    return {one["operator"]: one for one in page["unverifiable"]}


def _added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    sums = {name: AMOUNT.render(AMOUNT.read(one[name]) + AMOUNT.read(other[name])) for name in SUMMED}
    return {**one, **sums, "num_entries": one["num_entries"] + other["num_entries"]}


def claim(client: ApiClient, earning: Mapping[str, Any], account: Account, *, is_own_gas: bool) -> None:
    """Claim an account's earnings from one operator, an item of `/v1/earnings`. They are paid to its payout
    wallet. The operator sends the claim, or with `is_own_gas` this wallet.
    """
    with reading_answer(UNSIGNED):
        operator, claimable = Account(earning["operator"]), in_dollars(AMOUNT.read(earning["claimable"]))
    body = {"operator": operator, "account": account}
    if not is_own_gas:
        client.wait_confirmed(client.post("/v1/claims/relay", body))
        return
    terms = (
        ("amount", f"{claimable}, as the market states it"),
        ("from", f"operator {operator}"),
        ("to", f"the payout wallet of {account}"),
    )
    header = Chosen(fixed={"operator": operator})
    request = {"header": header, "account": account, "opening": Chosen()}
    asked = AskedCall(Statement("Claim earnings", terms), "Settlement", "claim", {"request": request})
    client.wallet.send(asked, client.post("/v1/claims/prepare", body))
