"""Wallet of the command line: a local key that signs messages, typed data and transactions."""

from __future__ import annotations

import time
from typing import Any

from backend.domain.errors import Conflict, Unavailable
from backend.domain.ids import Account

MINING_TIMEOUT_SECONDS = 60.0


class Wallet:
    """Signs and sends like a browser wallet, with a private key held by this process."""

    def __init__(self, private_key: str, rpc_url: str) -> None:
        from eth_account import Account as EthAccount
        from web3 import HTTPProvider, Web3

        self.rpc_url = rpc_url
        self._key = EthAccount.from_key(private_key)
        self._web3 = Web3(HTTPProvider(rpc_url))
        self.account = Account(self._key.address.lower())

    def sign_message(self, text: str) -> str:
        """Sign a text with EIP-191 (`personal_sign`). Returns 0x-hex."""
        from eth_account.messages import encode_defunct

        return "0x" + bytes(self._key.sign_message(encode_defunct(text=text)).signature).hex()

    def sign_typed_data(self, payload: dict[str, Any]) -> str:
        """Sign EIP-712 typed data in the format of `eth_signTypedData_v4`. Returns 0x-hex."""
        from eth_account.messages import encode_typed_data

        signable = encode_typed_data(full_message=payload)
        return "0x" + bytes(self._key.sign_message(signable).signature).hex()

    def send(self, prepared: dict[str, Any]) -> dict[str, Any]:
        """Sign and send a transaction that the API prepared, and return its transaction receipt once mined.

        Errors: `Conflict` if it fails on chain, `Unavailable` if it is not mined in time.
        """
        eth = self._web3.eth
        call: dict[str, Any] = {
            "from": self._key.address,
            "to": self._web3.to_checksum_address(prepared["to"]),
            "data": prepared["data"],
            "value": int(prepared["value"]),
        }
        gas = prepared.get("gas") or eth.estimate_gas(call) * 5 // 4  # type: ignore[arg-type]
        tip = eth.max_priority_fee
        fees = {"maxFeePerGas": 2 * eth.gas_price + tip, "maxPriorityFeePerGas": tip}
        nonce = eth.get_transaction_count(self._key.address, "pending")
        signed = self._key.sign_transaction(
            call | fees | {"gas": int(gas), "nonce": nonce, "chainId": prepared["chain_id"], "type": 2}
        )
        tx_hash = eth.send_raw_transaction(signed.raw_transaction)
        return self._wait_until_mined("0x" + bytes(tx_hash).hex())

    def _wait_until_mined(self, tx_hash: str) -> dict[str, Any]:
        from web3.exceptions import TransactionNotFound

        deadline = time.monotonic() + MINING_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            try:
                tx_receipt = dict(self._web3.eth.get_transaction_receipt(tx_hash))  # type: ignore[arg-type]
            except TransactionNotFound:
                time.sleep(0.1)
                continue
            if tx_receipt["status"] != 1:
                raise Conflict(f"transaction {tx_hash} reverted", details={"tx_hash": tx_hash})
            return tx_receipt
        raise Unavailable(f"transaction {tx_hash} was not mined within {MINING_TIMEOUT_SECONDS:.0f} s")
