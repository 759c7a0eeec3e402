"""The voter's governance calls: delegate, propose, vote, queue, execute."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from backend.client import governance
from backend.client.errors import ApiError
from backend.client.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.client.api import ApiClient
    from backend.client.node import Mined

VOTE_SECONDS = 120


def change_fee(client: ApiClient, fee_ppm: int, say: Callable[[str], None]) -> str:
    """Change the protocol fee by a vote; returns the proposal's id."""
    governance.delegate(client)
    say("delegated the votes to itself")
    time.sleep(2)  # votes count from the second after the delegation
    proposal_id = governance.propose(client, {"feePpm": fee_ppm})
    path = f"{governance.PROPOSALS}/{proposal_id}"
    _await_state(client, path, "active")
    governance.cast(client, proposal_id, "for")
    say("proposed and voted")
    _await_state(client, path, "succeeded")
    governance.queue(client, proposal_id)
    say("queued in the timelock")
    _await_state(client, path, "queued")
    _execute(client, proposal_id)
    _await_state(client, path, "executed")
    say("executed")
    return proposal_id


def _execute(client: ApiClient, proposal_id: str) -> None:
    """Execute the proposal once the timelock's delay has passed; until then the API's simulation fails."""

    def try_execute() -> Mined | None:
        try:
            return governance.execute(client, proposal_id)
        except ApiError as error:
            if "TimelockUnexpectedOperationState" in f"{error} {error.details}":
                return None
            raise

    wait_until(try_execute, "the timelock", VOTE_SECONDS)


def _await_state(client: ApiClient, path: str, state: str) -> None:
    """Wait for a state of a proposal. The wallet's own transaction is mined before the API shows it."""

    def is_reached() -> bool | None:
        try:
            return client.get(path)["state"] == state or None
        except ApiError as error:
            if error.details["status"] == HTTPStatus.NOT_FOUND:
                return None
            raise

    wait_until(is_reached, f"the proposal to be {state}", VOTE_SECONDS)
