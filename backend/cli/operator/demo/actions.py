"""Actions of the demo's wallets, through the REST API alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.client import contributions, registries
from backend.client.earnings import claim as claim_earning
from backend.client.waiting import wait_until
from backend.domain.errors import Conflict
from backend.domain.money import AMOUNT, UNIT
from backend.services.accounts.claims import MIN_RELAYED_UNITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from backend.client.api import ApiClient

CHAIN_SECONDS = 120
TRAINING_SECONDS = 900
PROMPT_PRICE, COMPLETION_PRICE = 5_000_000, 15_000_000
"""Token units per million tokens: 5 and 15 test dollars."""
OPERATOR_PPM, CREATOR_PPM = 300_000, 200_000
"""Shares of the charge after the protocol fee; the contributors get the other half."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained and registered version. `charge`: price of its training, in micro-units."""

    model: str
    version_id: str
    digest: str
    cid: str
    eval_loss_base: float
    eval_loss_adapter: float
    num_charged_tokens: int
    charge: int
    receipt_id: str


def contribute(client: ApiClient, datanet: int, name: str, licence: str, rows: Iterable[bytes]) -> str:
    """Upload and sign a contribution; returns the upload's id.

    Errors: `Conflict` with the report's first defects.
    """
    params = {"datanet": datanet, "name": name, "licence": licence}
    upload = contributions.upload(client, params, rows)
    if upload["state"] != "draft":
        raise Conflict(f"{name} was refused", details={"defects": upload["report"]["defects"][:5]})
    contributions.submit(client, upload, datanet=datanet, licence=licence)
    return str(upload["id"])


def await_acceptance(client: ApiClient, upload_id: str) -> dict[str, Any]:
    """Wait until an upload is recorded and accepted by the curator. Errors: `Conflict` if it is rejected."""

    def accepted() -> dict[str, Any] | None:
        upload: dict[str, Any] = client.get(f"/v1/contributions/{upload_id}")
        if upload["state"] == "rejected" or upload["error"]:
            raise Conflict(f"contribution {upload['name']} was not accepted: {upload['error']}")
        return upload if upload["state"] == "accepted" else None

    return wait_until(accepted, f"contribution {upload_id} to be accepted", CHAIN_SECONDS)


def start_training(client: ApiClient, snapshot: str, hyperparameters: dict[str, Any]) -> str:
    body = {"snapshot_id": snapshot, "hyperparameters": hyperparameters}
    return str(client.post("/v1/fine_tuning/jobs", body)["id"])


def await_training(client: ApiClient, job_id: str, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Wait until a job is published, passing its events to `show`. Errors: `Conflict` if it fails."""
    after = 0

    def published() -> dict[str, Any] | None:
        nonlocal after
        for event in client.get(f"/v1/fine_tuning/jobs/{job_id}/events", after=after, limit=500)["data"]:
            after = event["seq"]
            show(event)
        job: dict[str, Any] = client.get(f"/v1/fine_tuning/jobs/{job_id}")
        if job["status"] in {"failed", "cancelled"}:
            raise Conflict(f"training job {job_id} {job['status']}: {job['error']}")
        return job if job["status"] == "succeeded" and job["cid"] else None

    return wait_until(published, f"training job {job_id}", TRAINING_SECONDS)


def register(client: ApiClient, name: str, job: dict[str, Any]) -> Adapter:
    """Register a job's adapter as a version, and wait until it is indexed."""
    listing = registries.Listing(name, PROMPT_PRICE, COMPLETION_PRICE, OPERATOR_PPM, CREATOR_PPM)
    path = f"/v1/fine_tuning/jobs/{job['id']}/registration/prepare"
    registries.register_version(client, listing, client.post(path, listing.body)["transaction"])

    def indexed_version() -> str | None:
        version: str | None = client.get(f"/v1/fine_tuning/jobs/{job['id']}")["version_id"]
        return version

    version_id = wait_until(indexed_version, f"{name} to be registered", CHAIN_SECONDS)
    return Adapter(
        model=f"{client.wallet.account}/{name}",
        version_id=version_id,
        digest=job["adapter_digest"],
        cid=job["cid"],
        eval_loss_base=job["metrics"]["eval_loss_base"],
        eval_loss_adapter=job["metrics"]["eval_loss_adapter"],
        num_charged_tokens=job["trained_tokens"],
        charge=AMOUNT.read(job["payment"]["charge"]),
        receipt_id=job["payment"]["receipt_id"],
    )


def claim(client: ApiClient) -> int:
    """Claim all earnings large enough to be relayed; returns the micro-units claimed."""

    def audited() -> tuple[list[dict[str, Any]]] | None:
        found = client.list_all("/v1/earnings")
        return None if any(earning["unverifiable"] for earning in found) else (found,)

    claimed = 0
    (found,) = wait_until(audited, "the batches to be audited", CHAIN_SECONDS)
    for earning in found:
        claimable = AMOUNT.read(earning["claimable"])
        if claimable >= MIN_RELAYED_UNITS * UNIT:
            claim_earning(client, earning, client.wallet.account, is_own_gas=False)
            claimed += claimable
    return claimed
