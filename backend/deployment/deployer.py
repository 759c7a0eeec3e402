"""Sends the transactions of a deployment one by one, each recorded in a journal before it is broadcast."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import rlp

from backend.chain.contracts import encode_call, interface
from backend.chain.node import Fees
from backend.chain.rpc import RpcError
from backend.chain.transactions import TX_GAS_CAP, UnsignedTransaction, call_error, replacement_fees, sign
from backend.deployment.builds import load_build
from backend.deployment.journal import Journal, Step
from backend.domain.chain import Reverted
from backend.domain.errors import Conflict, Unavailable
from backend.domain.hashing import keccak, to_bytes, to_hash
from backend.domain.ids import Account

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.chain.node import Node, TxReceipt
    from backend.ports.keys import TransactionSigner

MINED_SECONDS = 300
MAX_PAUSE_SECONDS = 2.0


class Deployer:
    """Sends with one key and waits until each transaction is mined.

    With the journal of an interrupted run it continues that run.
    """

    def __init__(self, node: Node, signer: TransactionSigner, journal: Journal | None = None) -> None:
        self.node = node
        self.addresses: dict[str, Account] = {}
        self.created: dict[str, int] = {}
        """Contract -> index of the step that created it."""
        self._signer = signer
        self._journal = journal or Journal()

    @property
    def account(self) -> Account:
        return self._signer.account

    def create(self, contract: str, *args: Any, build: str | None = None) -> TxReceipt:
        """Deploy a contract, by default its own build, and record its address."""
        data = load_build(build or contract).creation + interface(contract).constructor.encode(args)[4:]
        tx_receipt = self._send(f"{contract}.constructor", None, data)
        if tx_receipt.contract_address is None:
            raise Unavailable(f"the node reports no address for the new {contract}")
        if self.addresses.get(contract, tx_receipt.contract_address) != tx_receipt.contract_address:
            raise Conflict(
                f"{contract} is not at the address that other contracts were given: the key {self.account} "
                "sent another transaction. Move the journal away and deploy again with a key used for "
                "nothing else",
                param="journal",
            )
        self.addresses[contract] = tx_receipt.contract_address
        self.created[contract] = self._journal.position - 1
        return tx_receipt

    def predict_addresses(self, contracts: Sequence[str]) -> None:
        """Record the addresses of the next contracts, so that constructors can refer to later contracts.

        They must be created in this order, with no other transaction in between.
        """
        first = self._journal.next_nonce
        if first is None:
            first = self.node.num_transactions(self.account)
        for offset, contract in enumerate(contracts):
            self.addresses[contract] = create_address(self.account, first + offset)

    def send(self, contract: str, function: str, *args: Any) -> TxReceipt:
        data = encode_call(contract, function, args)
        return self._send(f"{contract}.{function}", self.addresses[contract], data)

    def call(self, contract: str, function: str, *args: Any) -> Any:
        entry = interface(contract).function(function, args)
        return entry.decode_result(self.node.call(self.addresses[contract], entry.encode(args)))

    def with_signer(self, signer: TransactionSigner) -> Deployer:
        """A deployer for the same contracts with another key and no journal."""
        other = Deployer(self.node, signer)
        other.addresses = self.addresses
        return other

    def receipts(self) -> list[TxReceipt]:
        """Receipts of all steps so far. Transactions that a reorganisation dropped are broadcast again."""
        return [self._succeeded(step) for step in self._journal.steps]

    def _send(self, call: str, to: Account | None, data: bytes) -> TxReceipt:
        digest = to_hash(keccak((to or "").encode() + data))
        step = self._journal.replay(call, digest)
        if step is None:
            step = self._first_signed(Step(call, digest), to, data)
            self._journal.append(step)
        else:
            step = self._with_current_fees(step, to, data)
        return self._succeeded(step)

    def _first_signed(self, step: Step, to: Account | None, data: bytes) -> Step:
        gas = self._estimate(step.call, to, data)
        nonce = self.node.num_transactions(self.account)
        gas_limit = min(gas * 5 // 4, max(gas, TX_GAS_CAP))
        return self._signed(replace(step, nonce=nonce, gas=gas_limit), to, data)

    def _with_current_fees(self, step: Step, to: Account | None, data: bytes) -> Step:
        """A step of an earlier run; replaced with the same nonce if it is unmined and fees have risen."""
        if self._find(step) or self.node.fees().max_fee <= step.max_fee:
            return step
        replacement = self._signed(step, to, data)
        self._journal.replace(step, replacement)
        self._broadcast(replacement)
        return replacement

    def _estimate(self, call: str, to: Account | None, data: bytes) -> int:
        fields = {"from": self.account, "data": "0x" + data.hex()} | ({} if to is None else {"to": to})
        try:
            return int(self.node.rpc.request("eth_estimateGas", fields, "pending"), 16)
        except RpcError as error:
            contract, function = call.split(".")
            raise call_error(contract, function, error) from error

    def _signed(self, step: Step, to: Account | None, data: bytes) -> Step:
        fees = replacement_fees(Fees(step.max_fee, step.priority_fee), self.node.fees())
        unsigned = UnsignedTransaction(self.node.chain_id, step.nonce, to, data, step.gas, fees)
        signed = sign(self._signer, unsigned)
        return replace(
            step,
            max_fee=fees.max_fee,
            priority_fee=fees.priority_fee,
            raw=signed.raw,
            hashes=(*step.hashes, signed.hash),
        )

    def _succeeded(self, step: Step) -> TxReceipt:
        tx_receipt = self._mined(step)
        if not tx_receipt.is_success:
            raise Reverted(f"{step.call} was mined, but failed ({tx_receipt.tx_hash})")
        return tx_receipt

    def _mined(self, step: Step) -> TxReceipt:
        """Wait until the transaction is mined; broadcast it if the node does not have it."""
        until, pause = time.monotonic() + MINED_SECONDS, 0.02
        while time.monotonic() < until:
            if tx_receipt := self._find(step):
                return tx_receipt
            if not any(map(self.node.knows, step.hashes)):
                self._broadcast(step)
            else:
                time.sleep(pause)
                pause = min(pause * 1.5, MAX_PAUSE_SECONDS)
        raise Unavailable(
            f"{step.call}, transaction {step.hashes[-1]}, is not mined after {MINED_SECONDS} s: run again"
        )

    def _find(self, step: Step) -> TxReceipt | None:
        found = (self.node.tx_receipt(tx_hash) for tx_hash in step.hashes)
        return next((tx_receipt for tx_receipt in found if tx_receipt is not None), None)

    def _broadcast(self, step: Step) -> None:
        try:
            self.node.broadcast(step.raw)
        except RpcError as error:
            if self._find(step) or any(map(self.node.knows, step.hashes)):
                return
            raise Conflict(
                f"the journal has {step.call} with nonce {step.nonce} of {self.account}, but "
                f"the node refuses it: {error.message}",
                param="journal",
                details={"transaction": step.hashes[-1]},
            ) from error


def create_address(creator: Account, nonce: int) -> Account:
    """The address of the contract that an account creates with this nonce (the opcode `CREATE`)."""
    return Account("0x" + keccak(rlp.encode([to_bytes(creator), nonce]))[12:].hex())
