"""A creator's calls: datanets and adapter versions, registered by the creator's wallet."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from backend.client.comparison import Chosen
from backend.client.errors import UNSIGNED, reading_answer
from backend.client.signing import AskedCall, Statement
from backend.client.waiting import CONFIRMED_SECONDS, wait_through_outages
from backend.domain.hashing import ascii_word, to_hash
from backend.domain.money import PRICE, prices_in_dollars

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.client.api import ApiClient

DATANETS = "/v1/datanets"


@dataclass(frozen=True, slots=True)
class Listing:
    """Name, prices and shares of a version. Prices are in token units per million tokens, shares in ppm."""

    name: str
    prompt_price: int
    completion_price: int
    operator_ppm: int
    creator_ppm: int

    @property
    def body(self) -> dict[str, Any]:
        """Fields of the API's requests."""
        prices = {name: PRICE.render(getattr(self, name)) for name in ("prompt_price", "completion_price")}
        return asdict(self) | prices


def create_datanet(client: ApiClient, name: str, description: str = "", licence: str = "") -> int:
    """Create a datanet; returns its id once the market shows it.

    `description`: Markdown, published. `licence`: SPDX expression of the licences that it accepts, or any.
    """
    with reading_answer(UNSIGNED):
        known = {datanet["id"] for datanet in client.list_all(DATANETS)}
    body = {"name": name, "description": description, "licence": licence}
    prepared = client.post(f"{DATANETS}/prepare", body)
    args = {"name": to_hash(ascii_word(name)), "cidDigest": Chosen("folder of the description")}
    terms = (("name", name), ("licence", licence or "any"), ("creator", client.wallet.account))
    statement = Statement("Create a datanet", terms)
    client.wallet.send(AskedCall(statement, "DatasetRegistry", "createDatanet", args), prepared)
    created = (name, client.wallet.account)

    def new_id() -> int | None:
        with reading_answer("the transaction was sent"):
            new = (datanet for datanet in client.list_all(DATANETS) if datanet["id"] not in known)
            return next((one["id"] for one in new if (one["name"], one["creator"]) == created), None)

    what = f"datanet {name} to be indexed; the transaction was sent: `loraledger datanet list` will show it"
    return wait_through_outages(new_id, what, CONFIRMED_SECONDS)


def register_version(client: ApiClient, listing: Listing, prepared: Mapping[str, Any]) -> None:
    """Send the registration that the API prepared for an adapter of this wallet."""
    record = {
        "creator": client.wallet.account,
        "name": to_hash(ascii_word(listing.name)),
        "adapterDigest": Chosen("adapter"),
        "cidDigest": Chosen("folder"),
        "baseModel": Chosen("base model"),
        "snapshots": Chosen("snapshots"),
        "promptPrice": listing.prompt_price,
        "completionPrice": listing.completion_price,
        "operatorPpm": listing.operator_ppm,
        "creatorPpm": listing.creator_ppm,
    }
    terms = (
        ("name", f"{client.wallet.account}/{listing.name}"),
        ("prices", prices_in_dollars(listing.prompt_price, listing.completion_price)),
        ("shares", f"operators {listing.operator_ppm:,} ppm, creator {listing.creator_ppm:,} ppm"),
    )
    asked = AskedCall(
        Statement("Register an adapter", terms), "AdapterRegistry", "register", {"record": record}
    )
    client.wallet.send(asked, prepared)
