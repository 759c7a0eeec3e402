"""A market on a public network: deployed, checked, its sources written, its votes delegated.

Like `bootstrap`, a composition root: it may reach every adapter.
"""

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
    from backend.deployment.checks.reading import Finding
    from backend.deployment.record import Record
    from backend.domain.ids import Account
    from backend.settings import Settings

RECORDS = Path("deployments")


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, most of it nothing."""

    findings: list[Finding]
    num_contracts: int
    block_number: int

    @property
    def is_off(self) -> bool:
        return any(finding.severity == "off" for finding in self.findings)


def make_key(settings: Settings) -> Account:
    """A new key in the key store. Errors: `InvalidInput` without a password file."""
    return _keystore(settings).create()


def plan(terms_path: Path) -> list[str]:
    """What the terms come to, one line each. Errors: as `read_terms`."""
    from backend.deployment.contracts import CONTRACTS
    from backend.deployment.profiles import NAMES
    from backend.deployment.quorum import tokens
    from backend.deployment.terms_file import read_terms

    terms = read_terms(terms_path)
    quorum = terms.quorum
    reserve = terms.supply - quorum.total
    lines = [
        f"chain {terms.chain_id}, profile `{NAMES[terms.profile]}`, {len(CONTRACTS)} contracts",
        f"supply {tokens(terms.supply)}, of it {tokens(reserve)} with the timelock, which has no vote",
        f"quorum {quorum.percent} %: {tokens(quorum.needed)} of the {tokens(quorum.total)} that can vote",
        f"a proposal needs {tokens(quorum.threshold)} votes of one delegate",
        f"at least {quorum.fewest} holders reach the quorum together",
    ]
    return [*lines, *(f"warning: {warning}" for warning in quorum.warnings())]


def deploy(settings: Settings, terms_path: Path, account: str, folder: Path) -> Path:
    """The path of the record. Errors: as `read_terms` and `launch`, `NotFound` without the key."""
    from backend.deployment.deploy import launch
    from backend.deployment.terms_file import read_terms

    terms = read_terms(terms_path)
    signer = _keystore(settings).open(_account(account))
    with _node(settings) as node:
        launch(node, signer, terms, folder, settings.confirmations)
    return folder / f"{terms.chain_id}.json"


def check(settings: Settings, record_path: Path | None, terms_path: Path | None) -> Report:
    """What is off with the market on the chain behind the RPC. Errors: as `check_market`."""
    from backend.deployment.checks.market import check_market
    from backend.deployment.contracts import CONTRACTS
    from backend.deployment.terms_file import read_terms

    terms = None if terms_path is None else read_terms(terms_path)
    with _node(settings) as node:
        record = _record(node, record_path)
        block = node.head().number
        return Report(check_market(node, record, terms), len(CONTRACTS), block)


def write_sources(settings: Settings, record_path: Path | None, folder: Path) -> list[Path]:
    """Files for block explorers. Errors: as `backend.deployment.sources.write_sources`."""
    from backend.deployment.sources import write_sources as write

    with _node(settings) as node:
        return write(node, _record(node, record_path), folder)


def delegate(settings: Settings, record_path: Path | None, holder: str, to: str) -> int:
    """Let the votes of a key in the key store count, for itself or for `to`; the block that has it.

    Errors: `NotFound` without the key, `InvalidInput` for a malformed account.
    """
    from backend.deployment.deployer import Deployer

    signer = _keystore(settings).open(_account(holder))
    with _node(settings) as node:
        sender = Deployer(node, signer)
        sender.addresses = dict(_record(node, record_path).addresses)
        receiver = _account(to) if to else signer.account
        return sender.send("MarketToken", "delegate", receiver).block_number


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
    """With its password from the file that the settings name: beside the keys it would protect nothing."""
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
    from backend.deployment.terms_file import to_account

    try:
        return to_account(text)
    except ValueError as error:
        raise InvalidInput(str(error), param="account") from error
