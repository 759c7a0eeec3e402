"""Wires adapters into services.

Parts are made on first use: a command pays only for what it uses.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.errors import Conflict, InvalidInput, NotFound
from backend.domain.hashing import TypedDomain

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from backend.chain.client import ChainClient
    from backend.chain.indexer import Indexer
    from backend.chain.keystore import KeyStore
    from backend.chain.sender import Sender
    from backend.db.unit_of_work import Database
    from backend.domain.deployment import Deployment
    from backend.domain.ids import Account, Cid, Hash32
    from backend.installation.signing_keys import SigningKeys
    from backend.ports.attribution import Attributor
    from backend.ports.chain import Signer
    from backend.ports.engine import Engine
    from backend.ports.outbound import OutboundHttp
    from backend.ports.storage import BlobStore
    from backend.services.accounts.api_keys import ApiKeys
    from backend.services.accounts.claims import Claims
    from backend.services.answers.generate import Generate, GenerateLimits
    from backend.services.audit.auditor import Auditor
    from backend.services.audit.cases import Cases
    from backend.services.channels.admission import Admission, Market
    from backend.services.contribute.check_upload import UploadCheck
    from backend.services.contribute.copies import Copies
    from backend.services.contribute.curate import Curation
    from backend.services.contribute.staging import Staging
    from backend.services.contribute.transfers import Transfers
    from backend.services.market.adapter_folders import AdapterFolders
    from backend.services.market.catalogue import Catalogue
    from backend.services.market.denials import Policy
    from backend.services.market.screening import Gate
    from backend.services.operator.directory import Operators
    from backend.services.operator.membership import Membership
    from backend.services.operator.peers import Peers
    from backend.services.receipts.proofs import Proofs
    from backend.services.settle.settler import Settler
    from backend.settings import Settings


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """The base model that is served, as noted by whoever prepared it. Reading it needs no torch."""

    name: str
    digest: Hash32
    folder: str


class Installation:
    """One installation's adapters and services, from its settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    # Adapters

    @cached_property
    def deployment(self) -> Deployment:
        from backend.deployment.local import load

        return load(self.settings.deployment_file)

    @cached_property
    def chain(self) -> ChainClient:
        from backend.chain.client import ChainClient

        return ChainClient.connect(self.settings.rpc_url, self.deployment)

    @cached_property
    def database(self) -> Database:
        from backend.db.unit_of_work import Database

        return Database.open(self.settings.db_url)

    def prepare_database(self) -> None:
        """All tables as this version has them; does nothing where they are there."""
        from backend.db.migrate import upgrade

        upgrade(self.database.engine)

    @cached_property
    def blobs(self) -> BlobStore:
        if self.settings.ipfs_api:
            from backend.storage.kubo import KuboStore

            return KuboStore(self.settings.ipfs_api)
        from backend.storage.embedded import EmbeddedStore

        return EmbeddedStore(self.settings.blocks)

    @cached_property
    def outbound(self) -> OutboundHttp:
        from backend.outbound.client import OutboundClient

        allows = self.settings.private_peers
        is_local = self.deployment.chain_id == LOCAL_CHAIN_ID
        return OutboundClient(allows_private=is_local if allows is None else allows)

    def kubo_rpc(self, port: int) -> tuple[Any, socket.socket]:
        """ASGI application and loopback listener of a Kubo RPC over the embedded store.

        Errors: `Conflict` where the blocks are with a Kubo daemon, which has its own.
        """
        from backend.loopback import listen
        from backend.storage.embedded import EmbeddedStore
        from backend.storage.kubo_rpc import kubo_rpc

        if not isinstance(self.blobs, EmbeddedStore):
            raise Conflict(
                f"the blocks are with the daemon at {self.settings.ipfs_api}: ask it", param="ipfs_api"
            )
        return kubo_rpc(self.blobs), listen(port)

    @cached_property
    def base(self) -> BaseFacts:
        path = self.settings.base_model_file
        if not path.is_file():
            raise NotFound(
                f"no {path}: `loraledger operator base --prices PROMPT COMPLETION` prepares the base model; "
                "on the local network `loraledger up` does"
            )
        return BaseFacts(**json.loads(path.read_text()))

    def note_base(self, facts: BaseFacts) -> None:
        path = self.settings.base_model_file
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(facts), indent=2) + "\n")
        draft.replace(path)

    # Keys

    @cached_property
    def signing_keys(self) -> SigningKeys:
        from backend.installation.signing_keys import SigningKeys

        return SigningKeys(self.settings, self.deployment.chain_id)

    @cached_property
    def operator(self) -> Signer:
        return self.signing_keys.operator

    @cached_property
    def receipt_key(self) -> Signer:
        return self.signing_keys.receipt_key

    @cached_property
    def watcher_key(self) -> Signer:
        return self.signing_keys.watcher

    @cached_property
    def keystore(self) -> KeyStore:
        return self.signing_keys.store

    def signer_of(self, lane: Account) -> Signer | None:
        """The key of a lane of ours."""
        return self.operator if lane == self.operator.account else None

    # Services

    @cached_property
    def market(self) -> Market:
        from backend.services.channels.admission import Market

        return Market(self.operator.account, self.deployment.address("Settlement"), self.domain("Settlement"))

    @cached_property
    def auditor(self) -> Auditor:
        return self.auditor_of(self.database)

    def auditor_of(self, db: Database) -> Auditor:
        """Judging by the view of the chain in this database."""
        from backend.services.audit.auditor import Auditor

        return Auditor(db, self.cases(db))

    def cases(self, db: Database, kept: int = 1) -> Cases:
        """With the operators of this database's view of the chain as sources of batch data."""
        from backend.chain.keys import recover
        from backend.services.audit.cases import Cases

        bring = self.peers_of(db).bring
        return Cases(self.chain, self.blobs, recover, self.domain("Settlement"), kept, bring)

    def peers_of(self, db: Database) -> Peers:
        from backend.services.operator.peers import Peers

        try:
            own = self.operator.account
        except (InvalidInput, NotFound):  # whoever only watches has no operator's key
            own = None
        return Peers(db, self.outbound, self.blobs, own)

    @cached_property
    def claims(self) -> Claims:
        from backend.services.accounts.claims import Claims

        db = self.database
        return Claims(db, self.auditor, self.chain, self.operator.account)

    @cached_property
    def proofs(self) -> Proofs:
        from backend.services.receipts.proofs import Proofs

        return Proofs(self.database, self.auditor, self.chain)

    @cached_property
    def settler(self) -> Settler:
        from backend.chain.keys import recover
        from backend.services.settle.settler import Pace, Settler

        return Settler(
            operator=self.operator.account,
            db=self.database,
            chain=self.chain,
            blobs=self.blobs,
            auditor=self.auditor,
            keys=self.keystore,
            recover=recover,
            vault=self.domain("PaymentVault"),
            settlement=self.domain("Settlement"),
            pace=Pace(self.settings.batch_seconds, self.settings.batch_receipts),
            clock=self.chain_now,
            thaw_seconds=int(self.chain.call("PaymentVault", "thawSeconds")),
        )

    @cached_property
    def staging(self) -> Staging:
        from backend.services.contribute.staging import Staging

        return Staging(self.settings.home / "uploads", self.settings.max_upload_bytes)

    @cached_property
    def transfers(self) -> Transfers:
        from backend.services.contribute.transfers import Transfers

        return Transfers(self.settings.home / "transfers", self.settings.max_upload_bytes)

    @cached_property
    def upload_check(self) -> UploadCheck:
        from backend.services.contribute.check_upload import UploadCheck

        db, refused = self.database, self.settings.refused_kinds
        return UploadCheck(db, self.staging, self.count_tokens, refused)

    @cached_property
    def curation(self) -> Curation:
        from backend.services.contribute.curate import Curation

        db = self.database
        return Curation(db, self.blobs, self.staging, self.operator.account)

    @cached_property
    def copies(self) -> Copies:
        from backend.services.contribute.copies import Copies

        return Copies(self.database, self.blobs)

    @cached_property
    def indexer(self) -> Indexer:
        from backend.chain.indexer import Indexer

        return Indexer(self.chain, self.database.event_log, self.deployment, self.settings.confirmations)

    @cached_property
    def sender(self) -> Sender:
        from backend.chain.sender import Sender

        return Sender(self.chain, self.database.send_queue, self.signer_of, self.settings.confirmations)

    @cached_property
    def catalogue(self) -> Catalogue:
        from backend.services.market.catalogue import BaseModel, Catalogue

        base = BaseModel(self.base.digest, self.base.name, self.operator.account)
        return Catalogue(self.database, base)

    @cached_property
    def engine(self) -> Engine:
        from backend.engine.client import EngineClient

        return EngineClient(self.settings.engine_socket)

    @cached_property
    def limits(self) -> GenerateLimits:
        from backend.services.answers.generate import GenerateLimits

        return GenerateLimits(answer_seconds=self.settings.answer_seconds)

    @cached_property
    def admission(self) -> Admission:
        from backend.services.channels.admission import Admission

        return Admission(
            self.database,
            self.market,
            self.receipt_key,
            utc_now,
            reservation_seconds=int(self.limits.longest_seconds),
            max_lag_seconds=self.settings.max_lag_seconds,
        )

    @cached_property
    def adapter_folders(self) -> AdapterFolders:
        from backend.services.market.adapter_folders import AdapterFolders

        home, peers = self.settings.home, self.peers_of(self.database)
        return AdapterFolders(self.blobs, home / "adapters", peers.bring)

    @cached_property
    def operators(self) -> Operators:
        from backend.services.operator.directory import Operators

        db, own, price = self.database, self.operator.account, self.settings.training_price
        return Operators(db, self.outbound, self.catalogue, own, price)

    @cached_property
    def membership(self) -> Membership:
        from backend.services.operator.membership import Membership

        db, own = self.database, self.operator.account
        registry = self.domain("OperatorRegistry")
        return Membership(db, self.chain, own, self.receipt_key, registry, self.chain_now)

    @cached_property
    def policy(self) -> Policy:
        from backend.services.market.denials import Policy

        return Policy(self.database, self.blobs, self.adapter_folders, utc_now)

    @cached_property
    def attributors(self) -> tuple[Attributor, ...]:
        """The first that can say attributes an answer: docs/adr/0016 says why in this order."""
        from backend.services.answers.attribution import HiddenCosine, Ridge, Uniform
        from backend.services.answers.attribution_index import Indices

        indices = Indices()
        return Ridge(indices, "error"), HiddenCosine(indices), Uniform()

    @cached_property
    def generate(self) -> Generate:
        from backend.services.answers.generate import Generate

        return Generate(
            self.database,
            self.catalogue,
            self.adapter_folders,
            self.engine,
            self.admission,
            self.attributors,
            self.limits,
        )

    @cached_property
    def gate(self) -> Gate:
        from backend.services.market.screening import Gate

        return Gate(self.database)

    @cached_property
    def api_keys(self) -> ApiKeys:
        from backend.services.accounts.api_keys import ApiKeys

        return ApiKeys(self.database, utc_now)

    def count_tokens(self, texts: Sequence[str]) -> int | None:
        """As the base model that is served cuts them."""
        from backend.services.contribute.count_tokens import count_tokens

        return count_tokens(Path(self.base.folder), texts)

    def is_here(self, cid: Cid) -> bool:
        """A daemon would ask its peers for what it does not have; our own store has nobody to ask."""
        return not self.settings.ipfs_api or self.blobs.has(cid)

    def chain_now(self) -> int:
        """Unix seconds by whichever clock is ahead: bursts of blocks push a local chain's, idling ours."""
        return max(int(time.time()), self.chain.head().timestamp)

    def domain(self, contract: str) -> TypedDomain:
        return TypedDomain(self.deployment.chain_id, self.deployment.address(contract))

    def close(self) -> None:
        """Close what was opened; parts that were never used were never opened."""
        for name in ("chain", "database"):
            part = self.__dict__.pop(name, None)
            if part is not None:
                part.close()
