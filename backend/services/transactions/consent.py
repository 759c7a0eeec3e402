"""Verifies signatures of accounts: keys and contract wallets. Twin of contracts/libraries/Signatures.sol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from backend.domain.ids import Account
    from backend.ports.keys import ContractWallets, Recover


class Consent:
    """Checks the account's key first, so that an account with delegated code (EIP-7702) can still sign with
    it, then the contract (EIP-1271) as of the latest block: what a contract accepts may change with every
    block.
    """

    def __init__(self, recover: Recover, contracts: ContractWallets) -> None:
        self._recover = recover
        self._contracts = contracts

    def refusal(self, account: Account, digest: bytes, signature: str) -> str | None:
        """Why this is not the account's signature of the 32 bytes; None if it is.

        Errors: `InvalidInput` if a key's signature is malformed; `Unavailable` if the chain cannot be
        reached.
        """
        try:
            signer = self._recover(digest, signature)
        except InvalidInput:
            signer = None  # contracts define their own signature formats
        if signer == account:
            return None
        accepted = self._contracts.accepts(account, digest, signature)
        if accepted is None:
            return f"{self._recover(digest, signature)} signed, not {account}"
        return None if accepted else f"the contract at {account} does not accept the signature (EIP-1271)"
