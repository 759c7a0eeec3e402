"""Whether an account signed, of whichever kind it is. Twin of contracts/libraries/Signatures.sol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from backend.domain.ids import Account
    from backend.ports.chain import ContractWallets, Recover


class Consent:
    """Of a key first, so that an account with delegated code (EIP-7702) keeps its key's signatures, then of a
    contract (EIP-1271), as it is on the chain now: what a contract accepts may change with every block.
    """

    def __init__(self, recover: Recover, contracts: ContractWallets) -> None:
        self._recover = recover
        self._contracts = contracts

    def refusal(self, account: Account, digest: bytes, signature: str) -> str | None:
        """Why this is not the account's signature of the 32 bytes; None if it is.

        Errors: `InvalidInput` where a key's signature is malformed; `Unavailable` without the chain.
        """
        try:
            signer = self._recover(digest, signature)
        except InvalidInput:
            signer = None  # contracts have signatures of any form
        if signer == account:
            return None
        accepted = self._contracts.accepts(account, digest, signature)
        if accepted is None:
            return f"{self._recover(digest, signature)} signed, not {account}"
        return None if accepted else f"the contract at {account} does not accept the signature (EIP-1271)"
