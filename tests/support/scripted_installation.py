"""The services of an installation on a real database, with fakes of engine, chain and stores."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from safetensors.numpy import save_file

from backend.api.rate_limits import RateLimits
from backend.api.services import Services
from backend.chain.keys import recover
from backend.domain.adapter_files import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from backend.domain.attribution import CHECKPOINT_FILE, GRADIENT_METHOD, INDEX_FILE
from backend.domain.catalogue import BaseModel
from backend.domain.channels import Channel, Grant
from backend.domain.content import cid_digest, cid_of
from backend.domain.hashing import TypedDomain
from backend.domain.ids import ZERO_HASH, DatanetId, Hash32, SnapshotId, VersionId
from backend.domain.receipt import VersionRecord, own_record
from backend.domain.registries import Contribution, Snapshot
from backend.domain.training_payment import training_record
from backend.outbound.client import OutboundClient
from backend.ports.storage import fetch_nothing
from backend.services.accounts.api_keys import ApiKeys
from backend.services.accounts.earned_receipt import EarnedReceipts
from backend.services.accounts.earnings import Earnings
from backend.services.accounts.idempotency import Idempotency
from backend.services.accounts.local_funds import LocalFunds
from backend.services.accounts.payouts import Payouts
from backend.services.accounts.rate_counts import MemoryCounts
from backend.services.accounts.sessions import Sessions
from backend.services.accounts.sign_in import SignIn, SignInPolicy
from backend.services.answers.attribution import HiddenCosine, Uniform
from backend.services.answers.attribution_index import Indices
from backend.services.answers.billing import Billing
from backend.services.answers.generate import Generate, GenerateLimits
from backend.services.answers.gradient_stage import GradientStage
from backend.services.answers.live_agreement import LiveAgreements
from backend.services.audit.background import BackgroundAudits
from backend.services.background import Background
from backend.services.channels.admission import Admission, Counterparty
from backend.services.channels.channels import Channels
from backend.services.channels.charges import Charges
from backend.services.channels.deposits import Deposits
from backend.services.channels.moves import Moves
from backend.services.contribute.check_upload import UploadCheck
from backend.services.contribute.contributions import Contributions
from backend.services.contribute.snapshot import Snapshots
from backend.services.contribute.staging import Staging
from backend.services.contribute.terms import DatanetTerms
from backend.services.contribute.transfers import Transfers
from backend.services.market.adapter_folders import AdapterFolders
from backend.services.market.catalogue import Catalogue
from backend.services.market.datanet_folders import DatanetFolders
from backend.services.market.denials import Denials
from backend.services.market.descriptions import Descriptions
from backend.services.market.governance import Governance
from backend.services.market.lineage import Lineages
from backend.services.market.registry import Registry
from backend.services.market.screening import Screening
from backend.services.operator.directory import Operators
from backend.services.operator.overview import Overviews
from backend.services.receipts.proofs import Proofs
from backend.services.receipts.receipts import Receipts
from backend.services.train.estimate import Estimates
from backend.services.train.imported import ImportedAdapters
from backend.services.train.jobs import Training
from backend.services.train.payments import Payments
from backend.services.train.publication import Publication
from backend.services.transactions.consent import Consent
from backend.services.webhooks.endpoints import Endpoints
from backend.services.webhooks.signing import SigningSecrets
from backend.settings import Settings
from backend.storage.embedded import EmbeddedStore
from inference.lora.files import digest_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Cid, ReceiptId
    from backend.domain.readiness import Fault
    from backend.domain.serving import NewReceipt, Reservation
    from backend.ports.attribution import Attributor
    from backend.ports.gradients import Gradients
    from backend.services.channels.admission import Bill, Payer

from tests.support.chain_view import FakeChainView
from tests.support.databases import CopiedViewDatabase
from tests.support.fakes import (
    EXPIRY,
    ORIGIN,
    FakeBlobStore,
    FakeChain,
    FakeClaims,
    FakeClock,
    FakeContractWallets,
    FakeGradients,
    FakeHeldKeys,
    FakeRows,
    FakeTokeniser,
    some_key,
)
from tests.support.market import CHAIN_ID, some_account, some_hash
from tests.support.relays import relays_of
from tests.support.scripted_engine import ScriptedEngine
from tests.support.terminal import scripted_deployment

TRAINING_PRICE = 2
METRICS_TOKEN = "llm_of_the_operator"


async def exposed() -> bytes:
    return b"loraledger_up 1\n"


async def without_faults() -> dict[str, Fault]:
    return {}


class BlockingAdmission:
    """Synchronous wrapper of `Admission`."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def check(self, payer: Payer, amount: int) -> None:
        asyncio.run(self._admission.check(payer, amount))

    def reserve(self, payer: Payer, amount: int) -> Reservation:
        return asyncio.run(self._admission.reserve(payer, amount))

    def release(self, reservation: Reservation) -> None:
        asyncio.run(self._admission.release(reservation))

    def charge(self, payer: Payer, reservation: Reservation, bill: Bill) -> NewReceipt:
        return asyncio.run(self._admission.charge(payer, reservation, bill))


class ScriptedInstallation:
    """One operator with a base model, one adapter by three contributors, and one payer."""

    def __init__(
        self, folder: Path, database: Database, chain: Any = None, max_upload_bytes: int = 1000
    ) -> None:
        self.database = database
        self.blobs = EmbeddedStore(folder / "ipfs", is_durable=False)
        self.clock, self.engine, self.store = FakeClock(), ScriptedEngine(), FakeBlobStore()
        self.view = FakeChainView(self.clock)
        self.db = CopiedViewDatabase(database, self.view)
        self.folder = folder
        self.max_upload_bytes = max_upload_bytes
        self.elsewhere: set[Cid] = set()
        self.quarantined: set[ReceiptId] = set()
        self.contracts = FakeContractWallets()
        self.attributors: tuple[Attributor, ...] = (HiddenCosine(Indices()), Uniform())
        self.payer, self.receipt_key, self.held_keys = some_key("payer"), some_key("receipts"), FakeHeldKeys()
        self.operator, self.settlement = some_account("operator"), some_account("settlement")
        self.domain = TypedDomain(CHAIN_ID, self.settlement)
        self.vault_domain = TypedDomain(CHAIN_ID, some_account("PaymentVault"))
        self.counterparty = Counterparty(self.operator, self.settlement, self.domain)
        self.channel = self.counterparty.channel(self.payer.account)
        self.base = BaseModel(some_hash("base model"), "tiny", self.operator, TRAINING_PRICE)
        self.engines = {self.base.digest: self.engine}
        self.bases = [self.base]
        self.base_version, self.version = self._register()
        self._build(folder, chain or FakeChain())

    def begin(self) -> AbstractContextManager[UnitOfWork]:
        return self.db.begin()

    def read(self) -> AbstractContextManager[UnitOfWork]:
        return self.db.read()

    def fund(
        self,
        balance: int,
        cap: int | None = None,
        *,
        thawing: int = 0,
        thawed_at: int | None = None,
        collected: int = 0,
    ) -> None:
        """A channel with this balance and a held session key up to `cap` (default: all of it). What thaws has
        long to go unless `thawed_at` is given.
        """
        self.view.channels[self.channel] = Channel(
            id=self.channel,
            payer=self.payer.account,
            operator=self.operator,
            collector=self.settlement,
            balance=balance,
            collected=collected,
            thawing=thawing,
            thawed_at=(EXPIRY if thawing else 0) if thawed_at is None else thawed_at,
        )
        with self.begin() as tx:
            held = tx.channels.held_keys(self.channel)
            key = held[0] if held else self.held_keys.create()
            if not held:
                tx.channels.add_held_key(self.channel, key)
        cap = balance + collected if cap is None else cap
        self.view.granted[self.channel] = [Grant(self.channel, key, cap, EXPIRY, None)]

    def record_rows(self, num_rows: int) -> None:
        """Record the snapshot's contributions, with `num_rows` accepted rows in total."""
        snapshot = self.view.snapshots[SnapshotId(some_hash("snapshot"))]
        labels = ("content", "folder", "MIT")
        for index in range(snapshot.count):
            rows = num_rows if index == snapshot.accepted[0] else 0 if index in snapshot.accepted else 1000
            content, folder, licence = (some_hash(f"{label} {index}") for label in labels)
            contributor, is_accepted = some_account(f"contributor {index}"), index in snapshot.accepted
            self.view.recorded.append(
                Contribution(
                    snapshot.datanet, index, contributor, content, folder, licence, rows, is_accepted, 0, 1, 1
                )
            )

    def host_adapter(self, name: str, weights: bytes, card: bytes = b"") -> VersionRecord:
        """Publish and register an adapter of these weights, priced as that of `version`."""
        files: dict[str, Path | bytes] = {CONFIG_FILE: b"{}", WEIGHTS_FILE: weights, CARD_FILE: card}
        hosted = replace(
            self.catalogue.record(self.version),
            name=name,
            adapter_digest=Hash32("0x" + digest_of(b"{}", [weights])),
            cid_digest=cid_digest(self.blobs.add_folder(files)),
        )
        self.view.register(hosted)
        return hosted

    def serve_also(self, base: BaseModel, price: int) -> ScriptedEngine:
        """Serve another base model too, by an engine of its own; its tokens cost `price` each way."""
        self.bases.append(base)
        engine = self.engines[base.digest] = ScriptedEngine()
        priced = own_record(self.operator, base.digest, base.name, price, price)
        self.view.register(priced)
        if base.training_price:
            self.view.register(training_record(self.operator, base.digest, base.training_price))
        self._build(self.folder, FakeChain())
        return engine

    def revoke_session(self) -> None:
        now = int(self.clock().timestamp())
        self.view.granted[self.channel] = [
            replace(grant, revoked_at=now) for grant in self.view.grants(self.channel)
        ]

    def use_gradient_stage(
        self, seconds: float = 60, live_agreements: LiveAgreements | None = None
    ) -> FakeGradients:
        """From now on answers of the adapter, which gets what gradients need, are attributed by them."""
        self.store.folders[cid_of(some_hash("folder"))] = _write_gradients
        gradients = FakeGradients()
        self.charges = Charges(self.db, self.domain, lambda _: self.receipt_key)
        stage = GradientStage({self.base.digest: gradients}, self.charges, seconds, live_agreements)
        self.generate = self.generating(60, stage, live_agreements)
        self.services = replace(self.services, generate=self.generate)
        return gradients

    def sampling(self, rate_ppm: int, gradients: Gradients | None = None) -> LiveAgreements:
        by_base = {self.base.digest: gradients or FakeGradients()}
        return LiveAgreements(self.db, self.view.block, by_base, rate_ppm, self.clock)

    def generating(
        self,
        answer_seconds: float,
        stage: GradientStage | None = None,
        live_agreements: LiveAgreements | None = None,
    ) -> Generate:
        return Generate(
            self.catalogue,
            self.folders,
            self.engines,
            self.admitting,
            Billing(self.db, self.attributors),
            GenerateLimits(default_max_tokens=16, answer_seconds=answer_seconds, state_seconds=0),
            stage,
            live_agreements,
        )

    def _register(self) -> tuple[VersionId, VersionId]:
        base = VersionRecord(
            creator=self.operator,
            name="base",
            adapter_digest=ZERO_HASH,
            cid_digest=ZERO_HASH,
            base_model=some_hash("base model"),
            snapshots=(),
            prompt_price=1,
            completion_price=2,
            operator_ppm=500_000,
            creator_ppm=500_000,
        )
        snapshot = SnapshotId(some_hash("snapshot"))
        self.view.snapshots[snapshot] = Snapshot(snapshot, DatanetId(7), 4, some_hash("bits"), (0, 1, 3), 1)
        adapter = replace(
            base,
            creator=some_account("creator"),
            name="docs",
            adapter_digest=some_hash("adapter"),
            cid_digest=some_hash("folder"),
            snapshots=(snapshot,),
            prompt_price=10,
            completion_price=20,
            operator_ppm=200_000,
            creator_ppm=0,
        )
        self.training_record = training_record(self.operator, base.base_model, TRAINING_PRICE)
        versions = self.view.register(base), self.view.register(adapter)
        self.view.register(self.training_record)
        return versions

    def _build(self, folder: Path, chain: Any) -> None:
        self.transfers = Transfers(folder / "transfers", self.max_upload_bytes)
        self.catalogue = Catalogue(self.db, self.bases, self.clock)
        self.descriptions = Descriptions(self.db, self.blobs, self.clock)
        self.admitting = Admission(
            self.db, self.counterparty, lambda _: self.receipt_key, self.clock, 900, 60
        )
        self.admission = BlockingAdmission(self.admitting)
        store: Any = self.store
        self.folders = AdapterFolders(store, self.folder / "adapters")
        self.denials = Denials(self.db, self.blobs, self.folders, digest_of, self.clock)
        self.generate = self.generating(answer_seconds=60)
        self.payments = Payments(self.counterparty, self.bases, lambda _: self.receipt_key, 60)
        self.signing_secrets = SigningSecrets("the installation's webhook key")
        check = UploadCheck(self.db, Staging(folder / "uploads", 1000), lambda _texts: None, frozenset())
        self.services = self._services(chain, check)

    def _services(self, chain: Any, check: UploadCheck) -> Services:
        claims: Any = FakeClaims()
        unused: Any = None
        audits = BackgroundAudits(self.db, unused, Background())
        sessions, consent = Sessions(self.db, self.clock), Consent(recover, self.contracts)
        outbound = OutboundClient(allows_private=True)
        self.relays = relays = relays_of(self.db, chain, self.operator)
        party, tokenisers = self.counterparty, dict.fromkeys(self.engines, FakeTokeniser())
        terms = DatanetTerms(self.blobs, fetch_nothing, Background())
        return Services(
            sign_in=SignIn(self.db, sessions, consent, self.clock, SignInPolicy((ORIGIN,), CHAIN_ID)),
            sessions=sessions,
            keys=ApiKeys(self.db, self.clock),
            rate_limits=RateLimits(Settings(), MemoryCounts()),
            deployment=scripted_deployment(),
            catalogue=self.catalogue,
            lineages=Lineages(self.db, self.clock),
            generate=self.generate,
            live_agreements=self.sampling(rate_ppm=0),
            idempotency=Idempotency(self.db, self.clock, answer_seconds=80),
            channels=Channels(
                self.db, party, self.vault_domain, recover, self.clock, lambda _: self.quarantined
            ),
            deposits=Deposits(self.db, chain, party, relays, self.held_keys, self.clock),
            moves=Moves(self.db, chain, party, relays, self.clock, 60),
            receipts=Receipts(self.db),
            proofs=Proofs(self.db, unused, chain, Background()),
            registry=Registry(self.db, chain, DatanetFolders(self.db, self.blobs, self.folder / "datanets")),
            contributions=Contributions(self.db, self.blobs, chain, consent, check, relays, terms),
            transfers=self.transfers,
            snapshots=Snapshots(self.db, self.blobs, chain, relays, self.folder),
            training=Training(self.db, self.payments, self.clock),
            estimates=Estimates(self.db, FakeRows(), tokenisers, self.payments),
            imported_adapters=ImportedAdapters(self.db, self.transfers, self.clock),
            operators=Operators(self.db, outbound, self.catalogue, self.operator),
            overviews=Overviews(self.db, unused, self.engines.values(), self.operator, self.clock),
            denials=self.denials,
            publication=Publication(self.db, self.blobs, chain, Screening(self.db), self.clock),
            claims=claims,
            earnings=Earnings(self.db, audits, unused),
            earned_receipts=EarnedReceipts(self.db, audits, unused),
            payouts=Payouts(chain, claims, relays),
            local_funds=LocalFunds(self.db, chain, self.operator),
            governance=Governance(chain, self.db),
            webhooks=Endpoints(self.db, outbound, self.signing_secrets, self.clock),
            blobs=self.blobs,
            is_local=lambda cid: cid not in self.elsewhere,
            metrics=exposed,
            metrics_token=lambda: METRICS_TOKEN,
            readiness=without_faults,
        )


def _write_gradients(folder: Path) -> None:
    """What `has_gradients` needs."""
    (folder / CHECKPOINT_FILE).touch()
    save_file({}, folder / INDEX_FILE, {"methods": GRADIENT_METHOD})
