"""What the services of an installation run on: database, chain, block store, engine, base model, keys."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.errors import Conflict, InvalidInput, NotFound
from backend.domain.hashing import TypedDomain
from backend.installation.base_model import BaseModelInfo, load_base_models, save_base_model
from backend.installation.extras import require_extra

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.keystore import KeyStore
    from backend.db.unit_of_work import Database
    from backend.domain.deployment import Deployment
    from backend.domain.ids import Account, Cid, Hash32
    from backend.domain.receipt import VersionRecord
    from backend.installation.engines import Engines
    from backend.installation.signing_keys import SigningKeys
    from backend.ports.keys import Signer, TransactionSigner
    from backend.ports.outbound import OutboundHttp
    from backend.ports.storage import BlobStore
    from backend.services.operator.peers import Peers
    from backend.settings import Settings


def utc_now() -> datetime:
    return datetime.now(UTC)


class Resources:
    """The resources that `settings` name, each opened on first use."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def deployment(self) -> Deployment:
        from backend.deployment.deployment_file import load_deployment

        return load_deployment(self.settings.deployment_file)

    @cached_property
    def chain(self) -> ChainClient:
        from backend.chain.client import ChainClient

        return ChainClient.connect(self.settings.rpc_url, self.deployment)

    @cached_property
    def database(self) -> Database:
        from backend.db.unit_of_work import Database

        if self.settings.db_url.startswith("postgres"):
            require_extra("postgres", "LORALEDGER_DATABASE_URL")
        return Database.open(self.settings.db_url)

    def prepare_database(self) -> None:
        """Create the tables or migrate them to this version. Errors: `Conflict` if a later one did;
        `DatabaseUnavailable`.
        """
        from backend.db.migrate import upgrade

        upgrade(self.database.engine)

    def check_database(self) -> None:
        """For processes that leave migrations to others. Errors: `NotFound` without a deployment, `Conflict`
        unless the tables have the newest revision of this version, `DatabaseUnavailable`.
        """
        from backend.db.migrate import check_revision

        _ = self.deployment  # a home without one gets no database
        with self.database.read() as tx:
            check_revision(tx.session.connection())

    def database_revisions(self) -> tuple[str | None, str]:
        """Revision of the tables, None if there are none, and the newest of this version. Errors:
        `DatabaseUnavailable`.
        """
        from backend.db.migrate import current_revision, newest_revision

        return current_revision(self.database.engine), newest_revision()

    def migrate_database(self, revision: str) -> None:
        """Migrate the tables to a revision. Errors: `InvalidInput`, `Conflict`, `DatabaseUnavailable`."""
        from backend.db.migrate import migrate

        migrate(self.database.engine, revision)

    @cached_property
    def scratch(self) -> Path:
        """Folder for temporary files of the size of uploads and adapters. `/tmp` is often in memory, and its
        free space is not what `LORALEDGER_RESERVED_DISK_BYTES` limits.
        """
        folder = self.settings.home / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def blobs(self) -> BlobStore:
        kubo, bucket = self.settings.ipfs_api, self.settings.s3_url
        if kubo and bucket:
            raise InvalidInput("set LORALEDGER_IPFS_API or LORALEDGER_S3_URL, not both", param="s3_url")
        if kubo:
            from backend.storage.kubo import KuboStore

            return KuboStore(kubo, self.settings.home / "kubo-garbage", self.scratch)
        if bucket:
            from backend.storage.s3 import S3Store

            require_extra("aws", "LORALEDGER_S3_URL")
            return S3Store(bucket, self.scratch)
        from backend.storage.embedded import EmbeddedStore

        return EmbeddedStore(self.settings.blocks)

    def is_local(self, cid: Cid) -> bool:
        """Whether looking `cid` up in `blobs` asks no peers, as a Kubo daemon does for missing blocks."""
        return not self.settings.ipfs_api or self.blobs.has(cid)

    def kubo_rpc(self, port: int) -> tuple[Any, socket.socket]:
        """ASGI application and loopback listener of a Kubo RPC API over the embedded store.

        Errors: `Conflict` if the blocks are elsewhere; a Kubo daemon serves that API itself.
        """
        from backend.loopback import listen
        from backend.storage.embedded import EmbeddedStore
        from backend.storage.kubo_rpc import kubo_rpc

        if not isinstance(self.blobs, EmbeddedStore):
            place = self.settings.ipfs_api or self.settings.s3_url
            raise Conflict(
                f"the blocks are stored at {place}; this serves the embedded store only", param="ipfs_api"
            )
        return kubo_rpc(self.blobs), listen(port)

    @cached_property
    def outbound(self) -> OutboundHttp:
        from backend.outbound.client import OutboundClient

        allows = self.settings.private_peers
        is_local = self.deployment.chain_id == LOCAL_CHAIN_ID
        return OutboundClient(allows_private=is_local if allows is None else allows)

    def peers_for(self, db: Database) -> Peers:
        """Fetches content from the other operators in this database's view of the chain."""
        from backend.disk.space import DiskSpace
        from backend.services.operator.peers import Peers

        space = DiskSpace(self.settings.home, self.settings.reserved_disk_bytes)
        return Peers(db, self.outbound, self.blobs, self.operator_account, space)

    @cached_property
    def engines(self) -> Engines:
        from backend.installation.engines import Engines

        return Engines(self.settings, lambda: list(self.base_models.values()))

    @cached_property
    def base_models(self) -> dict[Hash32, BaseModelInfo]:
        """The served base models by digest, in the order of the settings, from the files of
        `save_base_model`. Errors: `NotFound` until all are prepared.
        """
        return load_base_models(self.settings)

    @property
    def base_model(self) -> BaseModelInfo:
        """The first one. Errors: as of `base_models`."""
        return next(iter(self.base_models.values()))

    def base_of(self, record: VersionRecord) -> BaseModelInfo:
        """The base model of a version. Errors: `InvalidInput` if it is not served here."""
        found = self.base_models.get(record.base_model)
        if found is None:
            served = ", ".join(f"{info.name} ({info.digest})" for info in self.base_models.values())
            text = f"the version is of base model {record.base_model}; served here: {served}"
            raise InvalidInput(text, param="base_model")
        return found

    def save_base_model(self, info: BaseModelInfo, number: int = 1) -> None:
        """Save the base model that the settings name in this place, from 1."""
        save_base_model(info, self.settings.served[number - 1].file)

    # Keys

    @cached_property
    def signing_keys(self) -> SigningKeys:
        from backend.installation.signing_keys import SigningKeys

        return SigningKeys(self.settings, self.deployment.chain_id)

    @cached_property
    def operator(self) -> TransactionSigner:
        return self.signing_keys.operator

    @property
    def operator_account(self) -> Account | None:
        """None without the operator's key, which an installation that only watches does not have.

        Errors: `Unavailable` if a remote signer has to name it and does not answer.
        """
        try:
            return self.operator.account
        except (InvalidInput, NotFound):
            return None

    @cached_property
    def receipt_key(self) -> Signer:
        return self.signing_keys.receipt_key

    @cached_property
    def watcher_key(self) -> TransactionSigner:
        return self.signing_keys.watcher

    @cached_property
    def keystore(self) -> KeyStore:
        return self.signing_keys.store

    def signer_of(self, account: Account) -> TransactionSigner | None:
        """The key of an account that this installation sends transactions from; None for any other."""
        return self.operator if account == self.operator.account else None

    def typed_domain(self, contract: str) -> TypedDomain:
        """EIP-712 domain of a deployed contract."""
        return TypedDomain(self.deployment.chain_id, self.deployment.address(contract))

    def chain_now(self) -> int:
        """Unix seconds: the later of the wall clock and the newest block's timestamp. The timestamps of a
        local chain run ahead in bursts of blocks, and fall behind while no block is mined.
        """
        return max(int(time.time()), self.chain.head().timestamp)

    def close(self) -> None:
        """Close chain and database, where they were opened."""
        for name in ("chain", "database"):
            resource = self.__dict__.pop(name, None)
            if resource is not None:
                resource.close()
