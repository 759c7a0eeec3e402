"""Registration of adapters that are published: trained at the market, or imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.amounts import parse_price
from backend.cli.output import echo
from backend.client.waiting import CONFIRMED_SECONDS, wait_through_outages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from backend.client.api import ApiClient
    from backend.client.registries import Listing

Name = Annotated[str, typer.Option(help="Name to list it under: 1 to 32 of a-z, 0-9 and -.")]
Prices = Annotated[
    tuple[str, str],
    typer.Option("--prices", help="Dollars per million prompt tokens, and completion tokens."),
]
Shares = Annotated[
    tuple[int, int],
    typer.Option(
        help="Shares of the operators and of the creator, in ppm. The contributors get the rest, or the "
        "treasury if the adapter is trained on no snapshot."
    ),
]
DEFAULT_SHARES = 200_000, 300_000
AcceptCopy = Annotated[
    bool, typer.Option("--accept-copy", help="List it although it is a copy of another creator's version.")
]


def parse_listing(name: str, prices: tuple[str, str], shares: tuple[int, int]) -> Listing:
    """Errors: `typer.BadParameter` for a price that is none."""
    from backend.client.registries import Listing

    prompt, completion = (parse_price(price, "--prices") for price in prices)
    return Listing(name, prompt, completion, *shares)


def register_published(client: ApiClient, path: str, listing: Listing, **accepted: bool) -> None:
    """Show the screening report, sign the registration, and wait for it.

    `path`: of the job or the imported adapter in the API. `accepted`: further fields of the request.
    """
    from backend.client.registries import register_version

    prepared = client.post(f"{path}/registration/prepare", {**listing.body, **accepted})
    for line in _screening_lines(prepared["screening"]):
        echo(line)
    register_version(client, listing, prepared["transaction"])
    what = f"{listing.name} to be registered; the transaction was sent: see GET {path} before you repeat it"
    version = wait_through_outages(lambda: client.get(path)["version_id"], what, CONFIRMED_SECONDS)
    echo(f"{client.wallet.account}/{listing.name} is version {version}")


def _screening_lines(report: Mapping[str, Any] | None) -> Iterator[str]:
    if report is None:
        return
    risk, nearest = report["risk"], report["nearest"]
    yield (
        "no risk score: too few adapters are known"
        if risk is None
        else (f"risk score {risk['score']}/100, by {risk['by']}; a low score does not mean that it is safe")
    )
    if nearest is not None:
        what = "a copy of" if nearest["is_copy"] else "nearest version of another creator:"
        yield f"{what} {nearest['version_id']} by {nearest['creator']} (cosine {nearest['cosine']:.2f})"
    yield f"{report['num_compared']} versions compared, {report['num_unknown']} not reachable"
