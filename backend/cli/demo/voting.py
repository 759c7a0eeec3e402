"""The voter: delegate, propose, vote, queue, execute, each a contract call that the wallet signs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from backend.cli.client import ApiRefused, until
from backend.cli.vote import PROPOSALS, fee_proposal

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.cli.client import Market

VOTE_SECONDS = 120


def change_fee(market: Market, fee_ppm: int, say: Callable[[str], None]) -> str:
    """Carry a new protocol fee through; the proposal's id."""
    wallet = market.wallet
    wallet.send(market.post("/v1/governance/delegate/prepare", {}))
    say("delegated the votes to itself")
    time.sleep(2)  # votes count from the second after the delegation
    prepared = market.post(f"{PROPOSALS}/prepare", fee_proposal(fee_ppm))
    wallet.send(prepared["transaction"])
    proposal_id = str(prepared["proposal_id"])
    path = f"{PROPOSALS}/{proposal_id}"
    _await_state(market, path, "active")
    wallet.send(market.post(f"{path}/vote/prepare", {"ballot": "for"}))
    say("proposed and voted")
    _await_state(market, path, "succeeded")
    wallet.send(market.post(f"{path}/queue/prepare"))
    say("queued in the timelock")
    _await_state(market, path, "queued")
    _execute(market, path)
    _await_state(market, path, "executed")
    say("executed")
    return proposal_id


def _execute(market: Market, path: str) -> None:
    """The timelock refuses before its delay has passed on the chain's clock, and the simulation says so."""

    def prepared() -> Any | None:
        try:
            return market.post(f"{path}/execute/prepare")
        except ApiRefused as refused:
            if "TimelockUnexpectedOperationState" in f"{refused} {refused.details}":
                return None
            raise

    market.wallet.send(until(prepared, "the timelock", VOTE_SECONDS))


def _await_state(market: Market, path: str, state: str) -> None:
    market.find(path, VOTE_SECONDS)
    until(lambda: (market.get(path)["state"] == state) or None, f"the proposal to be {state}", VOTE_SECONDS)
