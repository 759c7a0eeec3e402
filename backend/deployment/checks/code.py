"""Compares the code on the chain, and the transactions that created it, with the build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.chain.contracts import interface
from backend.deployment.builds import load_build
from backend.deployment.checks.reader import Finding, error_at
from backend.deployment.contracts import CONTRACTS
from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.hashing import keccak

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.deployment.checks.reader import MarketReader

DOMAIN = {"MarketGovernor": "loraledger governor", "MarketToken": "loraledger market token"}
"""EIP-712 domain names other than `loraledger`."""


def check_code(market: MarketReader) -> Iterator[Finding]:
    """Compare runtime code without immutables, whose values other checks read."""
    for contract in CONTRACTS:
        build = load_build(contract)
        found, expected = build.mask_immutables(market.code(market.address(contract))), build.runtime
        if not found:
            yield error_at(contract, f"there is no code at {market.address(contract)}")
        elif found != expected:
            yield error_at(
                contract,
                f"the code at {market.address(contract)} is not the build's "
                f"(keccak {keccak(found).hex()[:16]}…, the build's {keccak(expected).hex()[:16]}…)",
            )
    if not market.code(market.address(PAYMENT_TOKEN)):
        yield error_at(PAYMENT_TOKEN, f"there is no code at {market.address(PAYMENT_TOKEN)}")


def check_creation(market: MarketReader) -> Iterator[Finding]:
    """Compare the creation code: another constructor could write other balances and roles without logs."""
    for contract in CONTRACTS:
        tx_hash = market.record.transactions.get(contract)
        if tx_hash is None:
            yield error_at(contract, "the record does not name the transaction that created it")
            continue
        tx = market.node.rpc.request("eth_getTransactionByHash", tx_hash)
        tx_receipt = market.node.tx_receipt(tx_hash)
        creation = "0x" + load_build(contract).creation.hex()
        if tx is None or tx_receipt is None:
            yield error_at(contract, f"the node does not have {tx_hash}, which should have created it")
        elif tx_receipt.contract_address != market.address(contract):
            yield error_at(contract, f"{tx_hash} did not create {market.address(contract)}")
        elif tx["from"].lower() != market.record.deployer:
            yield error_at(contract, f"was created by {tx['from'].lower()}, not by the record's deployer")
        elif not tx["input"].startswith(creation):
            yield error_at(contract, f"{tx_hash} did not run the build's constructor")
        elif tx_receipt.block_number != market.record.blocks.get(contract):
            yield error_at(
                contract, f"was created in block {tx_receipt.block_number}, the record says otherwise"
            )


def check_domains(market: MarketReader) -> Iterator[Finding]:
    """Check the EIP-712 domains."""
    for contract in CONTRACTS:
        if not any(f.name == "eip712Domain" for f in interface(contract).functions):
            continue
        _, name, version, chain_id, verifying, _, _ = market.call(contract, "eip712Domain")
        expected = (DOMAIN.get(contract, "loraledger"), "1", market.record.chain_id, market.address(contract))
        if (name, version, chain_id, verifying) != expected:
            yield error_at(
                contract, f"signs for {(name, version, chain_id, verifying)} instead of {expected}"
            )
