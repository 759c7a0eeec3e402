"""The voter's governance calls: delegate, propose, vote, queue, execute."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from backend.cli.api_client import ApiError, wait_until
from backend.cli.vote import CHANGE, PROPOSALS

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.cli.api_client import ApiClient

VOTE_SECONDS = 120


def change_fee(client: ApiClient, fee_ppm: int, say: Callable[[str], None]) -> str:
    """Change the protocol fee by a vote; returns the proposal's id."""
    wallet = client.wallet
    wallet.send(client.post("/v1/governance/delegate/prepare", {}))
    say("delegated the votes to itself")
    time.sleep(2)  # votes count from the second after the delegation
    prepared = client.post(CHANGE, {"changes": {"feePpm": fee_ppm}})
    wallet.send(prepared["transaction"])
    proposal_id = str(prepared["proposal_id"])
    path = f"{PROPOSALS}/{proposal_id}"
    _await_state(client, path, "active")
    wallet.send(client.post(f"{path}/vote/prepare", {"ballot": "for"}))
    say("proposed and voted")
    _await_state(client, path, "succeeded")
    wallet.send(client.post(f"{path}/queue/prepare"))
    say("queued in the timelock")
    _await_state(client, path, "queued")
    _execute(client, path)
    _await_state(client, path, "executed")
    say("executed")
    return proposal_id


def _execute(client: ApiClient, path: str) -> None:
    """Execute the proposal once the timelock's delay has passed; until then the API's simulation fails."""

    def try_prepare() -> Any | None:
        try:
            return client.post(f"{path}/execute/prepare")
        except ApiError as error:
            if "TimelockUnexpectedOperationState" in f"{error} {error.details}":
                return None
            raise

    client.wallet.send(wait_until(try_prepare, "the timelock", VOTE_SECONDS))


def _await_state(client: ApiClient, path: str, state: str) -> None:
    client.wait_until_indexed(path, VOTE_SECONDS)
    wait_until(
        lambda: (client.get(path)["state"] == state) or None, f"the proposal to be {state}", VOTE_SECONDS
    )
