"""What each wallet does in the demo, through the REST API alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.cli import contribution_steps
from backend.cli.client import until
from backend.domain.errors import Conflict
from backend.services.accounts.claims import MIN_RELAYED_UNITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from backend.cli.client import Market

CHAIN_SECONDS = 120
TRAINING_SECONDS = 900
PROMPT_PRICE, COMPLETION_PRICE = 5_000_000, 15_000_000
"""Token units per million tokens: 5 and 15 test dollars."""
OPERATOR_PPM, CREATOR_PPM = 300_000, 200_000
"""Of what the fee leaves; the contributors get the other half."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained and registered version; `charge` in micro-units, for its training."""

    model: str
    version_id: str
    digest: str
    cid: str
    eval_loss_base: float
    eval_loss_adapter: float
    num_trained_tokens: int
    charge: int
    receipt_id: str


def create_datanet(market: Market, name: str, description: str) -> int:
    """The new datanet's id, once the registry's event is indexed."""
    prepared = market.post("/v1/datanets/prepare", {"name": name, "description": description})
    market.wallet.send(prepared)

    def found() -> int | None:
        datanets = market.all("/v1/datanets")
        return next((datanet["id"] for datanet in datanets if datanet["name"] == name), None)

    return until(found, f"datanet {name}", CHAIN_SECONDS)


def contribute(market: Market, datanet: int, name: str, licence: str, rows: Iterable[bytes]) -> str:
    """Upload, read the report, sign; the upload's id. Errors: `Conflict` with the report's first defects."""
    where = {"datanet": datanet, "name": name, "licence": licence}
    upload = contribution_steps.upload(market, where, rows)
    if upload["state"] != "draft":
        raise Conflict(f"{name} was refused", details={"defects": upload["report"]["defects"][:5]})
    contribution_steps.submit(market, upload["id"])
    return str(upload["id"])


def await_acceptance(market: Market, upload_id: str) -> dict[str, Any]:
    """The upload once it is recorded and the curator has accepted it."""

    def accepted() -> dict[str, Any] | None:
        upload: dict[str, Any] = market.get(f"/v1/contributions/{upload_id}")
        if upload["state"] == "rejected" or upload["error"]:
            raise Conflict(f"contribution {upload['name']} was not accepted: {upload['error']}")
        return upload if upload["state"] == "accepted" else None

    return until(accepted, f"contribution {upload_id} to be accepted", CHAIN_SECONDS)


def start_training(market: Market, snapshot: str, hyperparameters: dict[str, Any]) -> str:
    body = {"snapshot_id": snapshot, "hyperparameters": hyperparameters}
    return str(market.post("/v1/fine_tuning/jobs", body)["id"])


def await_training(market: Market, job_id: str, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The published job; `show` gets each event as it comes. Errors: `Conflict` if it failed."""
    after = 0

    def published() -> dict[str, Any] | None:
        nonlocal after
        for event in market.get(f"/v1/fine_tuning/jobs/{job_id}/events", after=after, limit=500)["data"]:
            after = event["seq"]
            show(event)
        job: dict[str, Any] = market.get(f"/v1/fine_tuning/jobs/{job_id}")
        if job["status"] in {"failed", "cancelled"}:
            raise Conflict(f"training job {job_id} {job['status']}: {job['error']}")
        return job if job["status"] == "succeeded" and job["cid"] else None

    return until(published, f"training job {job_id}", TRAINING_SECONDS)


def register(market: Market, name: str, job: dict[str, Any]) -> Adapter:
    """Sign the version's registration and wait until it can be asked for."""
    listing = {
        "name": name,
        "prompt_price": PROMPT_PRICE,
        "completion_price": COMPLETION_PRICE,
        "operator_ppm": OPERATOR_PPM,
        "creator_ppm": CREATOR_PPM,
    }
    registration = market.post(f"/v1/fine_tuning/jobs/{job['id']}/registration/prepare", listing)
    market.wallet.send(registration["transaction"])

    def registered() -> str | None:
        version: str | None = market.get(f"/v1/fine_tuning/jobs/{job['id']}")["version_id"]
        return version

    version_id = until(registered, f"{name} to be registered", CHAIN_SECONDS)
    return Adapter(
        model=f"{market.wallet.account}/{name}",
        version_id=version_id,
        digest=job["adapter_digest"],
        cid=job["cid"],
        eval_loss_base=job["metrics"]["eval_loss_base"],
        eval_loss_adapter=job["metrics"]["eval_loss_adapter"],
        num_trained_tokens=job["trained_tokens"],
        charge=int(job["payment"]["charge"]),
        receipt_id=job["payment"]["receipt_id"],
    )


def claim(market: Market) -> int:
    """Claim all that is worth a relayed transaction; token units that this moved."""
    moved = 0
    for earning in market.all("/v1/earnings"):
        if int(earning["units"]) >= MIN_RELAYED_UNITS:
            market.wait_for(market.post("/v1/claims/relay", {"operator": earning["operator"]}))
            moved += int(earning["units"])
    return moved
