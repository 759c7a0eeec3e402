"""Moves of a channel to another settlement contract, with a sender and an indexer that the test replaces."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backend.domain.chain import Reverted
from backend.services.channels.admission import Payer
from backend.services.channels.moves import LEAST_MOVE, MoveTerms
from tests.support.admission import bill
from tests.support.fakes import FakeChain
from tests.support.market import some_account, some_hash
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.channels import Move
    from backend.domain.serving import Reservation
    from backend.domain.transactions import ChainTransaction, PreparedTransaction
    from backend.services.channels.balance import ChannelBalance

SIGNATURE = "0x" + "11" * 65
NEXT = some_account("next settlement")
X = LEAST_MOVE
"""Unit of these tests' amounts."""


class VaultChain(FakeChain):
    """The payer's next nonce, which a call of the vault must have."""

    nonce = 0

    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> Any:
        return self.nonce if function == "nonces" else super().call(contract, function, *args, block=block)

    def prepare(self, contract: str, function: str, *args: Any, **options: Any) -> PreparedTransaction:
        if function == "moveBalance" and int(args[1]["nonce"]) != self.nonce:
            raise Reverted("InvalidAccountNonce", error="InvalidAccountNonce", args_by_name={})
        return super().prepare(contract, function, *args, **options)


class MoveHarness:
    """An installation whose sender and indexer the test replaces."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.vault = VaultChain()
        self.installation = ScriptedInstallation(folder, database, self.vault)
        self.moves = self.installation.services.moves
        self.payer = Payer(self.installation.payer.account)

    def terms(self, max_amount: int | None = None) -> MoveTerms:
        terms, _ = self.moves.prepare(self.payer.account, NEXT, max_amount)
        return terms

    def move(self, max_amount: int | None = None) -> Move:
        return self.relay(self.terms(max_amount))

    def relay(self, terms: MoveTerms) -> Move:
        return self.moves.relay(self.payer.account, terms, SIGNATURE)

    def reserve(self, amount: int) -> Reservation:
        return self.installation.admission.reserve(self.payer, amount)

    def charge(self, reservation: Reservation, charge: int) -> None:
        self.installation.admission.charge(self.payer, reservation, bill(self.installation, charge))

    @property
    def balance(self) -> ChannelBalance:
        shown = self.installation.services.channels.get(self.payer.account, self.installation.channel)
        return shown.balance

    def transaction(self, move: Move) -> ChainTransaction:
        with self.installation.read() as tx:
            return tx.transactions.get(move.transaction_id)

    def queued(self) -> list[ChainTransaction]:
        with self.installation.read() as tx:
            return tx.transactions.not_failed(self.installation.operator, "PaymentVault", "moveBalance")

    def fail(self, move: Move) -> None:
        with self.installation.begin() as tx:
            tx.transactions.mark_failed(move.transaction_id, {"error": "Reverted", "message": "", "args": {}})

    def confirm(self, move: Move) -> None:
        """The transaction is confirmed, and not indexed yet."""
        self.vault.nonce = move.nonce + 1
        with self.installation.begin() as tx:
            tx.transactions.mark_mined(move.transaction_id, some_hash("move"), 8, some_hash("block 8"))
            tx.transactions.mark_confirmed(move.transaction_id)

    def show(self, **changes: int) -> None:
        view, channel = self.installation.view, self.installation.channel
        view.channels[channel] = replace(view.channels[channel], **changes)
