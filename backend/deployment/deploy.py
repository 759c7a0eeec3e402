"""Deploys a market to an EVM network, or continues an interrupted deployment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from backend.chain.contracts import interface
from backend.chain.rpc import RpcError
from backend.chain.transactions import current_gas_price
from backend.deployment.compromised_keys import compromised_accounts
from backend.deployment.contracts import create_market
from backend.deployment.deployer import Deployer
from backend.deployment.journal import Journal, Origin, exclusive
from backend.deployment.profiles import NAMES
from backend.deployment.record import Record, check_chain, read_record, write_record
from backend.domain.deployment import LOCAL_CHAIN_ID, PAYMENT_TOKEN
from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from backend.domain.money import COIN

if TYPE_CHECKING:
    from pathlib import Path

    from backend.chain.node import Node, TxReceipt
    from backend.deployment.terms import Terms
    from backend.domain.ids import Account
    from backend.ports.keys import TransactionSigner

GAS, GAS_PER_HOLDER = 34_000_000, 60_000
"""Slightly more than a deployment uses."""
TOKEN_DECIMALS = 6
"""Decimals of the payment token, which `PaymentVault` requires."""
CONFIRMED_SECONDS = 1800
"""Time to wait for the confirmations of the last transaction."""


def launch(node: Node, signer: TransactionSigner, terms: Terms, folder: Path, confirmations: int) -> Record:
    """Deploy a market on these terms, continue its deployment, or return its record if it exists.

    The record is written to `<folder>/<chainId>.json` once the last transaction has `confirmations`.

    Errors: `InvalidInput`, `Forbidden` and `NotFound` before anything is sent, and as of `check_chain`;
    `Conflict` if the folder has another deployment; `Unavailable` if transactions are not mined in time (run
    it again).
    """
    record_path = folder / f"{terms.chain_id}.json"
    journal_path = folder / f"{terms.chain_id}.journal.json"
    _check_chain_id(node, terms)
    with exclusive(folder):
        if record_path.exists():
            record = _require_same_terms(read_record(record_path), record_path, terms)
            check_chain(node, record)
        else:
            journal = _open_journal(node, signer.account, journal_path)
            _check_preconditions(node, signer.account, terms, is_begun=bool(journal.steps))
            deployer = Deployer(node, signer, journal)
            create_market(deployer, terms)
            record = _record(deployer, terms, _wait_until_confirmed(deployer, confirmations))
            write_record(record, record_path)
        journal_path.unlink(missing_ok=True)
    return record


def _check_chain_id(node: Node, terms: Terms) -> None:
    if node.chain_id != terms.chain_id:
        raise InvalidInput(
            f"the terms are for chain {terms.chain_id}, {node.rpc.name} is on chain {node.chain_id}",
            param="chain_id",
        )


def _require_same_terms(record: Record, path: Path, terms: Terms) -> Record:
    if record.terms != terms.digest:
        raise Conflict(
            f"{path} records a market with other terms: move it away to deploy another market",
            param="deployment",
        )
    return record


def _open_journal(node: Node, deployer: Account, path: Path) -> Journal:
    first = node.block(0)
    if first is None:
        raise Unavailable(f"the node at {node.rpc.name} does not have block 0")
    return Journal(Origin(node.chain_id, first.hash, deployer), path)


def _check_preconditions(node: Node, deployer: Account, terms: Terms, *, is_begun: bool) -> None:
    """Refuse a deployment that cannot succeed, before the first transaction."""
    if terms.chain_id != LOCAL_CHAIN_ID and deployer in compromised_accounts():
        raise Forbidden(f"the private key of {deployer} is public", param="account")
    for field, account in terms.accounts():
        if account == deployer:
            raise InvalidInput(f"{field} is the deployer, which must keep no role and no tokens", param=field)
    check_payment_token(node, terms.payment_token)
    gas = GAS + GAS_PER_HOLDER * len(terms.distribution)
    needed = gas * current_gas_price(node.fees())
    if not is_begun and (balance := node.balance(deployer)) < needed:
        raise InvalidInput(
            f"{deployer} has {_ether(balance)} of the chain's coin; a deployment needs up to "
            f"{_ether(needed)} ({gas:,} gas at current fees)",
            param="account",
        )


def check_payment_token(node: Node, token: Account) -> None:
    """Errors: `NotFound` if no ERC-20 is at the address; `InvalidInput` if it has other than six decimals.

    The vault refuses the same, and deposits of tokens with a transfer fee.
    """
    _read_number(node, token, "totalSupply")
    decimals = _read_number(node, token, "decimals")
    if decimals != TOKEN_DECIMALS:
        raise InvalidInput(
            f"payment_token: {token} has {decimals} decimals; prices and bounds are in units of a token with "
            f"{TOKEN_DECIMALS}, such as USDC",
            param="payment_token",
        )


def _read_number(node: Node, token: Account, function: str) -> int:
    entry = interface("MarketToken").function(function, ())
    try:
        result = node.call(token, entry.encode(()))
    except RpcError:
        result = b""
    if len(result) < 32:
        raise NotFound(f"payment_token: no ERC-20 with {function}() at {token}", param="payment_token")
    return int.from_bytes(result[:32], "big")


def _wait_until_confirmed(deployer: Deployer, confirmations: int) -> list[TxReceipt]:
    """Receipts of all steps once the last has its confirmations.

    A transaction that a reorganisation dropped is broadcast again unchanged, so that addresses stay the same.
    """
    until, receipts = time.monotonic() + CONFIRMED_SECONDS, deployer.receipts()
    while time.monotonic() < until:
        last = max(receipt.block_number for receipt in receipts)
        if deployer.node.head().number < last + confirmations:
            time.sleep(1)
        elif (again := deployer.receipts()) == receipts:
            return receipts
        else:
            receipts = again
    raise Unavailable(
        f"the last transaction did not get {confirmations} confirmations in {CONFIRMED_SECONDS} s: run again"
    )


def _record(deployer: Deployer, terms: Terms, receipts: list[TxReceipt]) -> Record:
    created = {contract: receipts[step] for contract, step in deployer.created.items()}
    first = min(created.values(), key=lambda receipt: receipt.block_number)
    return Record(
        chain_id=terms.chain_id,
        block_number=first.block_number,
        block_hash=first.block_hash,
        addresses=deployer.addresses | {PAYMENT_TOKEN: terms.payment_token},
        blocks={contract: receipt.block_number for contract, receipt in created.items()},
        transactions={contract: receipt.tx_hash for contract, receipt in created.items()},
        profile=NAMES[terms.profile],
        deployer=deployer.account,
        guardians=(terms.guardian,),
        curators=terms.curators,
        terms=terms.digest,
    )


def _ether(wei: int) -> str:
    return f"{wei / COIN:.4f}"
