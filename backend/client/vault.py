"""A payer's calls of the vault that need a node and no market: withdrawals, session keys and nonces. A payer
leaves an operator by them. Amounts are in micro-units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.client.signing import AskedCall, Statement
from backend.domain.hashing import channel_id
from backend.domain.money import in_dollars

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.client.node import Mined
    from backend.client.signing import Wallet
    from backend.domain.ids import Account, ChannelId

VAULT = "PaymentVault"
COLLECTOR = "Settlement"


@dataclass(frozen=True, slots=True)
class VaultChannel:
    """The wallet's channel with an operator, as the vault has it. What is charged and not collected yet is
    part of the balance.
    """

    id: ChannelId
    operator: Account
    balance: int
    collected: int
    thawing: int
    """Part of the balance, but for what a collection or a move takes during the thaw."""
    thawed_at: int
    """Unix seconds from which `thawing` can be withdrawn; 0 while nothing thaws."""

    @property
    def withdrawable(self) -> int:
        """Most that a withdrawal pays, once it has thawed."""
        return min(self.thawing, self.balance)


def read_channel(wallet: Wallet, operator: Account) -> VaultChannel:
    """Read the channel in the pinned deployment. Errors: `WrongChain`, `Unavailable`."""
    channel = channel_id(wallet.account, operator, wallet.address(COLLECTOR))
    with wallet.node() as node:
        node.check()
        stored = node.read(VAULT, "channelOf", channel)
    names = ("balance", "collected", "thawing", "thawedAt")
    return VaultChannel(channel, operator, *(stored[name] for name in names))


def thaw(wallet: Wallet, channel: VaultChannel, amount: int) -> Mined:
    """Start to withdraw an amount; 0 cancels it. It replaces what thaws already, and the thaw begins again.
    Errors: those of `Wallet.send`.
    """
    terms = (("amount", in_dollars(amount)), ("from", _in_words(channel)))
    args = {**_parties(wallet, channel.operator), "amount": amount}
    return wallet.send(AskedCall(Statement("Start a withdrawal", terms), VAULT, "thaw", args))


def withdraw(wallet: Wallet, operator: Account) -> Mined:
    """Withdraw what has thawed to the wallet. Errors: those of `Wallet.send`."""
    channel = read_channel(wallet, operator)
    terms = (
        ("amount", in_dollars(channel.withdrawable)),
        ("from", _in_words(channel)),
        ("to", wallet.account),
    )
    asked = AskedCall(Statement("Withdraw", terms), VAULT, "withdraw", _parties(wallet, operator))
    return wallet.send(asked)


def revoke_session(wallet: Wallet, operator: Account, key: Account) -> Mined:
    """Revoke a session key for ever, also one that was never granted. Errors: those of `Wallet.send`."""
    terms = (("session key", key), ("of", f"your channel with operator {operator}"))
    args = {**_parties(wallet, operator), "key": key}
    return wallet.send(AskedCall(Statement("Revoke a session key", terms), VAULT, "revokeSession", args))


def cancel_nonce(wallet: Wallet, nonce: int) -> Mined:
    """Use up the vault's next nonce. A message with the one after it is valid then. Errors: those of
    `Wallet.send`.
    """
    terms = (
        ("nonce", str(nonce)),
        ("voids", "unsent grants, revocations and moves that are signed with it"),
    )
    return wallet.send(AskedCall(Statement("Cancel a nonce", terms), VAULT, "cancelNonce", {"nonce": nonce}))


def _parties(wallet: Wallet, operator: Account) -> Mapping[str, Account]:
    return {"operator": operator, "collector": wallet.address(COLLECTOR)}


def _in_words(channel: VaultChannel) -> str:
    return f"channel {channel.id} with operator {channel.operator}"
