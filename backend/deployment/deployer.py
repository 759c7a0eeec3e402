"""Sends the transactions of a deployment, one after the other, each kept in a journal before it leaves."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rlp  # type: ignore[import-untyped]

from backend.chain.contracts import interface, reverted
from backend.chain.keys import sign_transaction
from backend.chain.rpc import RpcError
from backend.deployment.journal import Journal, Step
from backend.domain.errors import Conflict, NotFound, Unavailable
from backend.domain.hashing import keccak, to_bytes, to_hash
from backend.domain.ids import Account

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.chain.node import Node, TxReceipt
    from backend.ports.chain import Signer

ARTIFACTS = Path(__file__).parents[2] / "build" / "artifacts"
MINED_SECONDS = 300
LONGEST_NAP_SECONDS = 2.0
TX_GAS_CAP = 1 << 24
"""EIP-7825: a transaction with a higher limit is refused."""


class Deployer:
    """One key's transactions; waits for each. With a journal of an earlier run it continues that run."""

    def __init__(
        self, node: Node, signer: Signer, artifacts: Path = ARTIFACTS, journal: Journal | None = None
    ) -> None:
        self.node = node
        self.artifacts = artifacts
        self.addresses: dict[str, Account] = {}
        self.created: dict[str, int] = {}
        """Contract -> which of the steps created it."""
        self._signer = signer
        self._journal = journal or Journal()

    @property
    def account(self) -> Account:
        return self._signer.account

    def create(self, contract: str, *args: Any) -> TxReceipt:
        """Deploy a contract and note its address."""
        data = bytecode(contract, self.artifacts) + interface(contract).constructor.encode(args)[4:]
        tx_receipt = self._send(contract, "constructor", None, data)
        if tx_receipt.contract_address is None:
            raise Unavailable(f"the node reports no address for the new {contract}")
        if self.addresses.get(contract, tx_receipt.contract_address) != tx_receipt.contract_address:
            raise Conflict(
                f"{contract} is not where others were told that it would be: the key {self.account} was used "
                "elsewhere meanwhile. Move the journal away and begin anew with a key used for nothing else",
                param="journal",
            )
        self.addresses[contract] = tx_receipt.contract_address
        self.created[contract] = self._journal.position - 1
        return tx_receipt

    def foresee(self, contracts: Sequence[str]) -> None:
        """Note the addresses of contracts that are created next, in this order and with nothing in between:
        each may name those after it.
        """
        first = self._journal.next_nonce
        if first is None:
            first = self.node.num_transactions(self.account)
        for later, contract in enumerate(contracts):
            self.addresses[contract] = created_address(self.account, first + later)

    def send(self, contract: str, function: str, *args: Any) -> TxReceipt:
        data = interface(contract).function(function, args).encode(args)
        return self._send(contract, function, self.addresses[contract], data)

    def ask(self, contract: str, function: str, *args: Any) -> Any:
        entry = interface(contract).function(function, args)
        return entry.decode_result(self.node.call(self.addresses[contract], entry.encode(args)))

    def acting_as(self, signer: Signer) -> Deployer:
        """The same contracts, another key, no journal."""
        other = Deployer(self.node, signer, self.artifacts)
        other.addresses = self.addresses
        return other

    def receipts(self) -> list[TxReceipt]:
        """Of all steps so far. One that fell out of the chain is offered again, as it was signed."""
        return [self._succeeded(step) for step in self._journal.steps]

    def _send(self, contract: str, function: str, to: Account | None, data: bytes) -> TxReceipt:
        what = f"{contract}.{function}"
        digest = to_hash(keccak((to or "").encode() + data))
        step = self._journal.recall(what, digest)
        if step is None:
            step = self._sign(Step(what, digest), to, data)
            self._journal.note(step)
        else:
            step = self._dearer(step, to, data)
        return self._succeeded(step)

    def _sign(self, step: Step, to: Account | None, data: bytes) -> Step:
        gas = self._estimate(step.what, to, data)
        nonce = self.node.num_transactions(self.account)
        gas_limit = min(gas * 5 // 4, max(gas, TX_GAS_CAP))
        return self._at_present_fees(replace(step, nonce=nonce, gas=gas_limit), to, data)

    def _dearer(self, step: Step, to: Account | None, data: bytes) -> Step:
        """The step of an earlier run; signed anew with the same nonce where fees rose above it."""
        if self._found(step) or self.node.fees().max_fee <= step.max_fee:
            return step
        renewed = self._at_present_fees(step, to, data)
        self._journal.renew(step, renewed)
        self._offer(renewed)
        return renewed

    def _estimate(self, what: str, to: Account | None, data: bytes) -> int:
        call = {"from": self.account, "data": "0x" + data.hex()} | ({} if to is None else {"to": to})
        try:
            return int(self.node.rpc.request("eth_estimateGas", call, "pending"), 16)
        except RpcError as error:
            contract, function = what.split(".")
            raise reverted(contract, function, error.revert_data, error.message) from error

    def _at_present_fees(self, step: Step, to: Account | None, data: bytes) -> Step:
        fees = self.node.fees()
        # Pools take a replacement only if both of its fees are a tenth higher.
        max_fee = max(fees.max_fee, -(-step.max_fee * 9 // 8))
        tip = max(fees.priority_fee, -(-step.tip * 9 // 8))
        fields = {
            "chainId": self.node.chain_id,
            "nonce": step.nonce,
            "to": to or "",
            "value": 0,
            "data": "0x" + data.hex(),
            "gas": step.gas,
            "maxFeePerGas": max_fee,
            "maxPriorityFeePerGas": tip,
        }
        raw, tx_hash = sign_transaction(self._signer, fields)
        return replace(step, max_fee=max_fee, tip=tip, raw=raw, hashes=(*step.hashes, tx_hash))

    def _succeeded(self, step: Step) -> TxReceipt:
        tx_receipt = self._mined(step)
        if not tx_receipt.is_success:
            contract, function = step.what.split(".")
            raise reverted(contract, function, b"", f"mined, but failed ({tx_receipt.tx_hash})")
        return tx_receipt

    def _mined(self, step: Step) -> TxReceipt:
        """Offers the transaction until it is mined: an earlier run may have died before it did."""
        until, nap = time.monotonic() + MINED_SECONDS, 0.02
        while time.monotonic() < until:
            if tx_receipt := self._found(step):
                return tx_receipt
            if not any(map(self.node.knows, step.hashes)):
                self._offer(step)
            else:
                time.sleep(nap)
                nap = min(nap * 1.5, LONGEST_NAP_SECONDS)
        raise Unavailable(
            f"{step.what}, transaction {step.hashes[-1]}, is not mined after {MINED_SECONDS} s: run again"
        )

    def _found(self, step: Step) -> TxReceipt | None:
        found = (self.node.tx_receipt(tx_hash) for tx_hash in step.hashes)
        return next((tx_receipt for tx_receipt in found if tx_receipt is not None), None)

    def _offer(self, step: Step) -> None:
        try:
            self.node.broadcast(step.raw)
        except RpcError as error:
            if self._found(step) or any(map(self.node.knows, step.hashes)):
                return
            raise Conflict(
                f"{step.what} was noted with nonce {step.nonce} of {self.account}, but the node refuses it: "
                f"{error.message}",
                param="journal",
                details={"transaction": step.hashes[-1]},
            ) from error


def created_address(creator: Account, nonce: int) -> Account:
    """The address of the contract that an account creates with its transaction number `nonce`."""
    return Account("0x" + keccak(rlp.encode([to_bytes(creator), nonce]))[12:].hex())


def artifact(contract: str, artifacts: Path = ARTIFACTS) -> dict[str, Any]:
    """A contract's file from the build. `NotFound` says how to build."""
    return _artifact(contract, artifacts)


@cache
def _artifact(contract: str, artifacts: Path) -> dict[str, Any]:
    found = [path for path in artifacts.glob(f"**/{contract}.json") if path.parent.name == f"{contract}.sol"]
    if not found:
        raise NotFound(
            f"no build of contract {contract} in {artifacts}: run `make setup`, which compiles the contracts",
            param="artifacts",
        )
    content: dict[str, Any] = json.loads(found[0].read_text())
    return content


def bytecode(contract: str, artifacts: Path = ARTIFACTS) -> bytes:
    """Creation code from the build. `NotFound` says how to build."""
    return bytes.fromhex(artifact(contract, artifacts)["bytecode"][2:])
