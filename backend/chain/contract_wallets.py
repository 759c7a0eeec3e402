"""Verifies signatures of contract wallets (EIP-1271), by calls limited in gas, time and size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eth_abi.abi import encode

from backend.chain.node import Node
from backend.chain.rpc import Rpc, RpcError, node_errors
from backend.domain.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from typing import Self

    from backend.domain.ids import Account

MAGIC = bytes.fromhex("1626ba7e")
"""Selector of `isValidSignature(bytes32,bytes)`, which is also its return value for a valid signature."""
MAX_GAS = 1_000_000
"""Enough for two passkeys verified in Solidity (330,000 each). It also bounds the size of the result."""
MAX_SECONDS = 10
MAX_SIGNATURE_BYTES = 8192
CONTRACT_ERRORS = ("revert", "gas", "opcode", "jump", "stack", "vm exception")
"""Substrings of the error messages that nodes give when the contract's code fails."""


class WalletCalls:
    """Implements `backend.ports.keys.ContractWallets`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @classmethod
    def connect(cls, url: str) -> Self:
        """Connect with a separate session, a short timeout and a single attempt: untrusted callers trigger
        these calls.
        """
        return cls(Node(Rpc(url, retries=1, timeout_seconds=MAX_SECONDS)))

    @node_errors()
    def accepts(self, account: Account, digest: bytes, signature: str) -> bool | None:
        if self._node.code(account) == "0x":
            return None
        data = MAGIC + encode(["bytes32", "bytes"], [digest, _signature_bytes(signature)])
        call = {"to": account, "data": "0x" + data.hex(), "gas": hex(MAX_GAS)}
        try:
            result: str = self._node.rpc.request("eth_call", call, "latest")
        except RpcError as error:
            if not any(text in error.message.lower() for text in CONTRACT_ERRORS):
                raise Unavailable(
                    f"the node cannot call the contract at {account}: {error.message}"
                ) from error
            return False
        # The whole word is compared, because some contracts return data for any call.
        return result[:66] == "0x" + MAGIC.hex().ljust(64, "0")

    def close(self) -> None:
        self._node.close()


def _signature_bytes(signature: str) -> bytes:
    try:
        raw = bytes.fromhex(signature.removeprefix("0x"))
    except ValueError:
        raise InvalidInput("malformed signature: it is not hex", param="signature") from None
    if len(raw) > MAX_SIGNATURE_BYTES:
        raise InvalidInput(f"the signature has more than {MAX_SIGNATURE_BYTES} bytes", param="signature")
    return raw
