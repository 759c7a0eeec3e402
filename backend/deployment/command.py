"""Commands for a market on a public network: plan, deploy, check, write sources, delegate votes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.chain.keystore import KeyStore
    from backend.chain.node import Node
    from backend.deployment.checks.reader import Finding
    from backend.deployment.record import Record
    from backend.domain.ids import Account
    from backend.settings import Settings

RECORDS = Path("deployments")


@dataclass(frozen=True, slots=True)
class Report:
    """Findings of a check, on the state after one block."""

    findings: list[Finding]
    num_contracts: int
    block_number: int

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)


def make_key(settings: Settings) -> Account:
    """Create a key in the key store. Errors: `InvalidInput` without a password file."""
    return _keystore(settings).create()


def plan(terms_path: Path) -> list[str]:
    """Summarise terms, one line per fact. Errors: as `read_terms`."""
    from backend.deployment.contracts import CONTRACTS
    from backend.deployment.profiles import NAMES
    from backend.deployment.quorum import in_tokens
    from backend.deployment.terms_file import read_terms

    terms = read_terms(terms_path)
    quorum = terms.quorum
    votes, reserve = in_tokens(quorum.total), in_tokens(terms.supply - quorum.total)
    lines = [
        f"chain {terms.chain_id}, profile `{NAMES[terms.profile]}`, {len(CONTRACTS)} contracts",
        f"supply {in_tokens(terms.supply)}; the timelock, which cannot vote, holds {reserve}",
        f"quorum {quorum.percent} %: {in_tokens(quorum.needed)} of the {votes} that can vote",
        f"a proposal needs {in_tokens(quorum.threshold)} votes of one delegate",
        f"at least {quorum.min_accounts} holders reach the quorum together",
    ]
    return [*lines, *(f"warning: {warning}" for warning in quorum.warnings())]


def deploy(settings: Settings, terms_path: Path, account: str, folder: Path) -> Path:
    """Deploy; the path of the record. Errors: as `read_terms` and `launch`, `NotFound` without the key."""
    from backend.deployment.deploy import launch
    from backend.deployment.terms_file import read_terms

    terms = read_terms(terms_path)
    signer = _keystore(settings).open(_account(account))
    with _node(settings) as node:
        launch(node, signer, terms, folder, settings.confirmations)
    return folder / f"{terms.chain_id}.json"


def check(settings: Settings, record_path: Path | None, terms_path: Path | None) -> Report:
    """Check the market on the chain behind the RPC. Errors: as `check_market`."""
    from backend.deployment.checks.market import check_market
    from backend.deployment.contracts import CONTRACTS
    from backend.deployment.terms_file import read_terms

    terms = None if terms_path is None else read_terms(terms_path)
    with _node(settings) as node:
        record = _record(node, record_path)
        block = node.head().number
        return Report(check_market(node, record, terms), len(CONTRACTS), block)


def write_sources(settings: Settings, record_path: Path | None, folder: Path) -> list[Path]:
    """Write files for block explorers. Errors: as `backend.deployment.sources.write_sources`."""
    from backend.deployment.sources import write_sources as write

    with _node(settings) as node:
        return write(node, _record(node, record_path), folder)


def delegate(settings: Settings, record_path: Path | None, holder: str, to: str) -> int:
    """Delegate the votes of a key in the key store, to itself or to `to`; the block of the transaction.

    Errors: `NotFound` without the key, `InvalidInput` for a malformed account and as of `check_chain`.
    """
    from backend.deployment.deployer import Deployer
    from backend.deployment.record import check_chain

    signer = _keystore(settings).open(_account(holder))
    with _node(settings) as node:
        record = _record(node, record_path)
        check_chain(node, record)
        sender = Deployer(node, signer)
        sender.addresses = dict(record.addresses)
        delegatee = _account(to) if to else signer.account
        return sender.send("MarketToken", "delegate", delegatee).block_number


@contextmanager
def _node(settings: Settings) -> Iterator[Node]:
    from backend.chain.node import Node
    from backend.chain.rpc import RpcError

    node = Node.connect(settings.rpc_url)
    try:
        yield node
    except RpcError as error:
        raise Unavailable(f"the node at {node.rpc.name} refuses: {error}") from error
    finally:
        node.close()


def _record(node: Node, path: Path | None) -> Record:
    from backend.deployment.record import read_record

    return read_record(path or RECORDS / f"{node.chain_id}.json")


def _keystore(settings: Settings) -> KeyStore:
    """The key store, with a password from another place than the keys, which would not protect them."""
    from backend.chain.keystore import KeyStore

    path = settings.keystore_password_file
    if path is None:
        raise InvalidInput(
            f"set LORALEDGER_KEYSTORE_PASSWORD_FILE to a file with the password of {settings.keystore}",
            param="keystore_password_file",
        )
    if not path.is_file():
        raise NotFound(f"no password file {path}", param="keystore_password_file")
    password = path.read_text().strip()
    if not password:
        raise InvalidInput(f"the password file {path} is empty", param="keystore_password_file")
    return KeyStore(settings.keystore, password)


def _account(text: str) -> Account:
    from backend.deployment.terms_file import parse_address

    try:
        return parse_address(text)
    except ValueError as error:
        raise InvalidInput(str(error), param="account") from error
