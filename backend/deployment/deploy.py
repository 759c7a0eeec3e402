"""Deploys a market on its terms to any EVM network, and continues a deployment that died."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from backend.chain.contracts import interface
from backend.chain.rpc import RpcError
from backend.deployment.contracts import CONTRACTS, create_market
from backend.deployment.deployer import ARTIFACTS, Deployer, bytecode
from backend.deployment.journal import Journal, Origin, alone
from backend.deployment.profiles import NAMES
from backend.deployment.record import Record, read_record, write_record
from backend.deployment.well_known import well_known_accounts
from backend.domain.deployment import LOCAL_CHAIN_ID, PAYMENT_TOKEN
from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from backend.chain.node import Node, TxReceipt
    from backend.deployment.terms import Terms
    from backend.domain.ids import Account
    from backend.ports.chain import Signer

GAS, GAS_A_HOLDER = 34_000_000, 60_000
"""A little more than a deployment takes."""
DEEP_SECONDS = 900


def launch(
    node: Node,
    signer: Signer,
    terms: Terms,
    folder: Path,
    confirmations: int,
    artifacts: Path = ARTIFACTS,
) -> Record:
    """The market on these terms: deployed by this run, continued, or there already.

    The record goes to `<folder>/<chainId>.json` once the last transaction is `confirmations` blocks deep.

    Errors: `InvalidInput`, `Forbidden` and `NotFound` before anything is sent; `Conflict` when the folder
    tells of another deployment; `Unavailable` when the network does not keep up: run again.
    """
    record_path = folder / f"{terms.chain_id}.json"
    journal_path = folder / f"{terms.chain_id}.journal.json"
    _check_chain(node, terms)
    with alone(folder):
        if record_path.exists():
            record = _same(read_record(record_path), record_path, terms)
        else:
            journal = _open_journal(node, signer.account, journal_path)
            _check_before(node, signer.account, terms, artifacts, is_begun=bool(journal.steps))
            deployer = Deployer(node, signer, artifacts, journal)
            create_market(deployer, terms)
            record = _record(deployer, terms, _wait_until_deep(deployer, confirmations))
            write_record(record, record_path)
        journal_path.unlink(missing_ok=True)
    return record


def _check_chain(node: Node, terms: Terms) -> None:
    if node.chain_id != terms.chain_id:
        raise InvalidInput(
            f"the terms are for chain {terms.chain_id}, {node.rpc.name} is of chain {node.chain_id}",
            param="chain_id",
        )


def _same(record: Record, path: Path, terms: Terms) -> Record:
    if record.terms != terms.digest:
        raise Conflict(
            f"{path} records a market with other terms: move it away to deploy another one beside it",
            param="deployment",
        )
    return record


def _open_journal(node: Node, deployer: Account, path: Path) -> Journal:
    first = node.block(0)
    if first is None:
        raise Unavailable(f"the node at {node.rpc.name} does not have block 0")
    return Journal(Origin(node.chain_id, first.hash, deployer), path)


def _check_before(node: Node, deployer: Account, terms: Terms, artifacts: Path, *, is_begun: bool) -> None:
    """What can be known before the first transaction."""
    if terms.chain_id != LOCAL_CHAIN_ID and deployer in well_known_accounts():
        raise Forbidden(f"everybody has the key of {deployer}", param="account")
    for place, account in terms.parties():
        if account == deployer:
            raise InvalidInput(f"{place} is the deployer, which must keep nothing", param=place)
    for contract in CONTRACTS:
        bytecode(contract, artifacts)
    check_payment_token(node, terms.payment_token)
    fees = node.fees()
    gas = GAS + GAS_A_HOLDER * len(terms.distribution)
    needed = gas * (fees.max_fee + fees.priority_fee) // 2
    if not is_begun and (balance := int(node.rpc.request("eth_getBalance", deployer, "latest"), 16)) < needed:
        raise InvalidInput(
            f"{deployer} has {_ether(balance)} of the chain's coin; a deployment may take {_ether(needed)} "
            f"({gas:,} gas at present fees)",
            param="account",
        )


def check_payment_token(node: Node, token: Account) -> None:
    """`NotFound` without an ERC-20 there. Whether it takes a fee shows in use: the vault refuses that."""
    for function in ("decimals", "totalSupply"):
        entry = interface("MarketToken").function(function, ())
        try:
            result = node.call(token, entry.encode(()))
        except RpcError:
            result = b""
        if len(result) < 32:
            raise NotFound(f"payment_token: no ERC-20 with {function}() at {token}", param="payment_token")


def _wait_until_deep(deployer: Deployer, confirmations: int) -> list[TxReceipt]:
    """Every step's transaction as it is in the chain once the last is deep. What a reorganisation dropped is
    offered again as it was signed, so that it ends at the same addresses.
    """
    until, receipts = time.monotonic() + DEEP_SECONDS, deployer.receipts()
    while time.monotonic() < until:
        last = max(receipt.block_number for receipt in receipts)
        if deployer.node.head().number < last + confirmations:
            time.sleep(1)
        elif (again := deployer.receipts()) == receipts:
            return receipts
        else:
            receipts = again
    raise Unavailable(f"no {confirmations} blocks on top of the last transaction: run again")


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
    return f"{wei / 10**18:.4f}"
