"""Whether the code on the chain is the build's, and was put there by the build's constructors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.chain.contracts import interface
from backend.deployment.checks.reading import Finding, off
from backend.deployment.contracts import CONTRACTS
from backend.deployment.deployer import artifact
from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.hashing import keccak

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.deployment.checks.reading import Reading

DOMAIN = {"MarketGovernor": "loraledger governor", "MarketToken": "loraledger market token"}
"""EIP-712 names other than `loraledger`."""


def check_code(reading: Reading) -> Iterator[Finding]:
    """Runtime code, immutables masked: `checks.wiring` reads what they hold."""
    for contract in CONTRACTS:
        built = artifact(contract, reading.artifacts)
        found, expected = (
            masked(code, built)
            for code in (reading.code(reading.at(contract)), bytes.fromhex(built["deployedBytecode"][2:]))
        )
        if not found:
            yield off(contract, f"there is no code at {reading.at(contract)}")
        elif found != expected:
            yield off(
                contract,
                f"the code at {reading.at(contract)} is not the build's "
                f"(keccak {keccak(found).hex()[:16]}…, the build's {keccak(expected).hex()[:16]}…)",
            )
    if not reading.code(reading.at(PAYMENT_TOKEN)):
        yield off(PAYMENT_TOKEN, f"there is no code at {reading.at(PAYMENT_TOKEN)}")


def masked(code: bytes, built: dict[str, Any]) -> bytes:
    """Runtime code with zeros where the constructor writes immutables."""
    plain = bytearray(code)
    for places in built["immutableReferences"].values():
        for place in places:
            start, length = place["start"], place["length"]
            if start + length <= len(plain):
                plain[start : start + length] = bytes(length)
    return bytes(plain)


def check_creation(reading: Reading) -> Iterator[Finding]:
    """Another constructor could leave the same code with other balances and roles, and log none of it."""
    for contract in CONTRACTS:
        tx_hash = reading.record.transactions.get(contract)
        if tx_hash is None:
            yield off(contract, "the record does not name the transaction that created it")
            continue
        tx = reading.node.rpc.request("eth_getTransactionByHash", tx_hash)
        tx_receipt = reading.node.tx_receipt(tx_hash)
        creation = artifact(contract, reading.artifacts)["bytecode"]
        if tx is None or tx_receipt is None:
            yield off(contract, f"the node does not have {tx_hash}, which should have created it")
        elif tx_receipt.contract_address != reading.at(contract):
            yield off(contract, f"{tx_hash} did not create {reading.at(contract)}")
        elif tx["from"].lower() != reading.record.deployer:
            yield off(contract, f"was created by {tx['from'].lower()}, not by the record's deployer")
        elif not tx["input"].startswith(creation):
            yield off(contract, f"{tx_hash} did not run the build's constructor")
        elif tx_receipt.block_number != reading.record.blocks.get(contract):
            yield off(contract, f"was created in block {tx_receipt.block_number}, the record says otherwise")


def check_domains(reading: Reading) -> Iterator[Finding]:
    """What signatures are bound to."""
    for contract in CONTRACTS:
        if not any(f.name == "eip712Domain" for f in interface(contract).functions):
            continue
        _, name, version, chain_id, verifying, _, _ = reading.ask(contract, "eip712Domain")
        expected = (DOMAIN.get(contract, "loraledger"), "1", reading.record.chain_id, reading.at(contract))
        if (name, version, chain_id, verifying) != expected:
            yield off(contract, f"signs for {(name, version, chain_id, verifying)} instead of {expected}")
