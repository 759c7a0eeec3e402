"""Contracts that sign (EIP-1271): their own code judges, by a call that is bounded in gas, time and size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eth_abi.abi import encode

from backend.chain.node import Node
from backend.chain.rpc import Rpc, RpcError
from backend.domain.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from typing import Self

    from backend.domain.ids import Account

MAGIC = bytes.fromhex("1626ba7e")
"""`isValidSignature(bytes32,bytes)`: its selector, and what it returns for yes."""
MAX_GAS = 1_000_000
"""Two passkeys, verified in Solidity at 330,000 each, fit; it also bounds what a contract can return."""
MAX_SECONDS = 10
MAX_SIGNATURE_BYTES = 8192
FAULTS_OF_CODE = ("revert", "gas", "opcode", "jump", "stack", "vm exception")
"""In what nodes say when the fault is the contract's; other errors are their own."""


class WalletCalls:
    """Implements `backend.ports.chain.ContractWallets`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @classmethod
    def connect(cls, url: str) -> Self:
        """Uses its own connection, a short timeout and no retries: outside callers trigger these calls."""
        return cls(Node(Rpc(url, retries=1, timeout_seconds=MAX_SECONDS)))

    def accepts(self, account: Account, digest: bytes, signature: str) -> bool | None:
        if self._node.code(account) == "0x":
            return None
        data = MAGIC + encode(["bytes32", "bytes"], [digest, _signature_bytes(signature)])
        call = {"to": account, "data": "0x" + data.hex(), "gas": hex(MAX_GAS)}
        try:
            answer: str = self._node.rpc.request("eth_call", call, "latest")
        except RpcError as error:
            if not any(fault in error.message.lower() for fault in FAULTS_OF_CODE):
                raise Unavailable(
                    f"the node cannot ask the contract at {account}: {error.message}"
                ) from error
            return False
        # The whole word: a contract that answers everything with something is no wallet.
        return answer[:66] == "0x" + MAGIC.hex().ljust(64, "0")

    def close(self) -> None:
        self._node.close()


def _signature_bytes(signature: str) -> bytes:
    try:
        raw = bytes.fromhex(signature.removeprefix("0x"))
    except ValueError:
        raise InvalidInput("malformed signature: it is not hex", param="signature") from None
    if len(raw) > MAX_SIGNATURE_BYTES:
        raise InvalidInput(f"a signature has at most {MAX_SIGNATURE_BYTES} bytes", param="signature")
    return raw
