"""Wires the services of an installation. Each is built on first use: a command loads only what it needs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.errors import InvalidInput
from backend.domain.money import GWEI, UNIT
from backend.installation.audit import Audit
from backend.installation.datanets import Datanets
from backend.installation.extras import require_extra
from backend.installation.resources import Resources, utc_now

if TYPE_CHECKING:
    from backend.chain.indexer import Indexer
    from backend.chain.sending.sender import Sender
    from backend.domain.catalogue import BaseModel
    from backend.domain.ids import Hash32
    from backend.installation.attribution import Attribution
    from backend.installation.base_model import Offer
    from backend.services.accounts.api_keys import ApiKeys
    from backend.services.accounts.balance_events import BalanceEvents
    from backend.services.accounts.claims import Claims
    from backend.services.accounts.rate_counts import RateCounts
    from backend.services.accounts.sessions import Sessions
    from backend.services.accounts.sign_in import SignIn
    from backend.services.answers.generate import Generate, GenerateLimits
    from backend.services.channels.admission import Admission, Counterparty
    from backend.services.channels.channels import Channels
    from backend.services.contribute.transfers import Transfers
    from backend.services.market.adapter_folders import AdapterFolders
    from backend.services.market.catalogue import Catalogue
    from backend.services.market.denials import Denials
    from backend.services.market.descriptions import Descriptions
    from backend.services.market.screening import Screening
    from backend.services.operator.directory import Operators
    from backend.services.operator.key_rotation import KeyRotation
    from backend.services.operator.membership import Membership
    from backend.services.operator.offers import Offers
    from backend.services.operator.receipt_keys import ReceiptKeys
    from backend.services.settle.pace import Pace
    from backend.services.settle.settler import Settler
    from backend.services.train.estimate import Estimates
    from backend.services.train.imported import ImportedAdapters
    from backend.services.train.jobs import Training
    from backend.services.train.leases import Leases
    from backend.services.train.payments import Payments
    from backend.services.train.publication import Publication
    from backend.services.transactions.consent import Consent
    from backend.services.transactions.operator_transactions import OperatorTransactions
    from backend.services.transactions.relays import Relays
    from backend.services.webhooks.delivery import Deliveries
    from backend.services.webhooks.signing import SigningSecrets


LOCAL_BATCH_SECONDS = 5.0
PUBLIC_BATCH_SECONDS = 600.0
"""Where no time is set and gas has a price."""
PUBLIC_MIN_COLLECTED = 100_000
"""Token units, where no least amount is set and gas has a price."""
PUBLIC_RELAY_BUDGET = 100_000_000
"""Gwei, where no budget is set and the chain's coin has a price."""


class Installation(Resources):
    """One installation: the resources that its settings name, and every service on top of them."""

    # Chain

    @cached_property
    def indexer(self) -> Indexer:
        from backend.chain.indexer import Indexer

        event_log, confirmations = self.database.event_log, self.settings.confirmations
        return Indexer(self.chain, event_log, self.deployment, confirmations, is_counted=True)

    @cached_property
    def sender(self) -> Sender:
        from backend.chain.sending.sender import Sender

        return Sender(
            self.chain,
            self.database.send_queue,
            self.signer_of,
            self.settings.confirmations,
            relay_budget=self.relay_budget,
            account=lambda: self.operator_account,
        )

    @cached_property
    def relay_budget(self) -> int | None:
        """Wei that relayed transactions may cost in 24 hours; None: no limit."""
        gwei = self.settings.relay_budget
        if gwei is None and self.deployment.chain_id != LOCAL_CHAIN_ID:
            gwei = PUBLIC_RELAY_BUDGET
        return None if gwei is None else gwei * GWEI

    # Accounts

    @cached_property
    def api_keys(self) -> ApiKeys:
        from backend.services.accounts.api_keys import ApiKeys

        return ApiKeys(self.database, utc_now)

    @cached_property
    def sessions(self) -> Sessions:
        from backend.services.accounts.sessions import Sessions

        return Sessions(self.database, utc_now)

    @cached_property
    def consent(self) -> Consent:
        from backend.chain.contract_wallets import WalletCalls
        from backend.chain.keys import recover
        from backend.services.transactions.consent import Consent

        return Consent(recover, WalletCalls.connect(self.settings.rpc_url))

    @cached_property
    def sign_in(self) -> SignIn:
        from backend.services.accounts.sign_in import SignIn, SignInPolicy

        policy = SignInPolicy(self.settings.origins, self.deployment.chain_id)
        return SignIn(self.database, self.sessions, self.consent, utc_now, policy)

    @cached_property
    def rate_counts(self) -> RateCounts:
        """On PostgreSQL all API processes count together; on SQLite each counts by itself."""
        from backend.services.accounts.rate_counts import MemoryCounts, SharedCounts

        return SharedCounts(self.database) if self.database.is_shared else MemoryCounts()

    @cached_property
    def claims(self) -> Claims:
        from backend.services.accounts.claims import Claims

        return Claims(self.database, self.audit.audits, self.chain, self.relays)

    @cached_property
    def relays(self) -> Relays:
        from backend.services.transactions.relays import Relays

        return Relays(self.database, self.chain, self.operator.account, self.relay_budget, utc_now)

    # Market

    @cached_property
    def counterparty(self) -> Counterparty:
        from backend.services.channels.admission import Counterparty

        settlement = self.deployment.address("Settlement")
        return Counterparty(self.operator.account, settlement, self.typed_domain("Settlement"))

    @cached_property
    def bases(self) -> list[BaseModel]:
        """The served base models, with what this operator offers of them."""
        from backend.domain.catalogue import BaseModel

        account, refused = self.operator.account, self.engines.not_served
        pairs = zip(self.base_models.values(), self.settings.served, strict=True)
        return [
            BaseModel(info.digest, info.name, account, base.training_price, refused(base))
            for info, base in pairs
        ]

    @cached_property
    def catalogue(self) -> Catalogue:
        from backend.services.market.catalogue import Catalogue

        return Catalogue(self.database, self.bases, utc_now)

    @cached_property
    def descriptions(self) -> Descriptions:
        from backend.services.market.descriptions import Descriptions

        return Descriptions(self.database, self.blobs, utc_now)

    @cached_property
    def adapter_folders(self) -> AdapterFolders:
        from backend.services.market.adapter_folders import IN_USE_SECONDS, AdapterFolders
        from backend.services.market.denials import check_adapter

        def check(adapter: Hash32) -> None:
            with self.database.read() as tx:
                check_adapter(tx, adapter, "model")

        settings, peers = self.settings, self.peers_for(self.database)
        exports = [base.vllm_folder for base in settings.served]
        in_use_seconds = IN_USE_SECONDS + self.limits.longest_seconds + settings.gradient_seconds
        parts = settings.home / "adapters", peers.fetch_copy, exports, settings.reserved_disk_bytes
        return AdapterFolders(self.blobs, *parts, in_use_seconds, check=check)

    @cached_property
    def denials(self) -> Denials:
        from backend.services.market.denials import Denials
        from inference.lora.files import digest_of

        return Denials(self.database, self.blobs, self.adapter_folders, digest_of, utc_now)

    @cached_property
    def screening(self) -> Screening:
        from backend.services.market.screening import Screening

        return Screening(self.database)

    # Operators

    @cached_property
    def operators(self) -> Operators:
        from backend.services.operator.directory import Operators

        return Operators(self.database, self.outbound, self.catalogue, self.operator.account)

    @cached_property
    def operator_transactions(self) -> OperatorTransactions:
        from backend.services.transactions.operator_transactions import OperatorTransactions

        return OperatorTransactions(self.database, self.chain, self.operator.account)

    @cached_property
    def membership(self) -> Membership:
        from backend.services.operator.membership import Membership

        account, registry = self.operator.account, self.typed_domain("OperatorRegistry")
        return Membership(self.database, self.chain, account, self.receipt_keys, registry)

    @cached_property
    def receipt_keys(self) -> ReceiptKeys:
        """Selects the key that signs receipts: the configured one until it is retired, see `ReceiptKeys`."""
        from backend.services.operator.receipt_keys import ReceiptKeys

        return ReceiptKeys(self.operator.account, lambda: self.receipt_key, lambda: self.keystore)

    @cached_property
    def key_rotation(self) -> KeyRotation:
        from backend.services.operator.key_rotation import KeyRotation

        account, registry = self.operator.account, self.typed_domain("OperatorRegistry")
        return KeyRotation(self.database, self.chain, account, self.receipt_keys, registry)

    @cached_property
    def offers(self) -> Offers:
        from backend.services.operator.offers import Offers

        return Offers(self.database, self.chain, self.operator.account)

    def prepare_offers(self, prices: tuple[int, int] | None = None) -> list[Offer]:
        """Find and save the base models that the settings name, and build the records by which they are sold.

        `prices`: of those whose prices no setting states, without an adapter, in token units per million
        prompt tokens, and completion tokens. Errors: `InvalidInput`.
        """
        from backend.installation.base_model import check_distinct, find_base_model, offer

        require_extra("operator", "LORALEDGER_BASE_MODEL")  # reading a base model loads torch
        bases = self.settings.served
        given = [base.prices or prices for base in bases]
        stated = [each for each in given if each is not None]
        if len(stated) < len(bases):
            raise InvalidInput("state --prices, or `prices` of each base in LORALEDGER_BASES", param="prices")
        infos = [find_base_model(base.model, self.settings.model_cache) for base in bases]
        check_distinct(infos)
        account = self.operator.account
        offers = [offer(account, *each) for each in zip(infos, bases, stated, strict=True)]
        for number, info in enumerate(infos, start=1):
            self.save_base_model(info, number)
        return offers

    # Answers and channels

    @cached_property
    def limits(self) -> GenerateLimits:
        from backend.services.answers.generate import GenerateLimits

        return GenerateLimits(answer_seconds=self.settings.answer_seconds)

    @cached_property
    def admission(self) -> Admission:
        from backend.services.channels.admission import Admission

        _ = self.receipt_key  # fail now if the key is missing, instead of at the first answer
        return Admission(
            self.database,
            self.counterparty,
            self.receipt_keys.in_use,
            utc_now,
            reservation_seconds=int(self.limits.longest_seconds),
            max_lag_seconds=self.settings.max_lag_seconds,
        )

    @cached_property
    def attribution(self) -> Attribution:
        from backend.installation.attribution import Attribution

        return Attribution(self, lambda: self.receipt_keys)

    @cached_property
    def generate(self) -> Generate:
        from backend.services.answers.billing import Billing
        from backend.services.answers.generate import Generate

        return Generate(
            self.catalogue,
            self.adapter_folders,
            self.engines.by_base,
            self.admission,
            Billing(self.database, self.attribution.methods),
            self.limits,
            self.attribution.stage,
            self.attribution.live_agreements,
        )

    @cached_property
    def channels(self) -> Channels:
        from backend.chain.keys import recover
        from backend.services.channels.channels import Channels
        from backend.services.settle.convictions import Convictions

        settlement, vault = self.typed_domain("Settlement"), self.typed_domain("PaymentVault")
        convictions = Convictions(self.operator.account, self.chain, self.blobs, settlement, recover)
        return Channels(self.database, self.counterparty, vault, recover, utc_now, convictions.quarantined)

    # Settlement and audit

    @cached_property
    def settler(self) -> Settler:
        from backend.chain.keys import recover
        from backend.metrics import UNCOVERED_UNITS
        from backend.services.settle.settler import Settler

        return Settler(
            operator=self.operator.account,
            db=self.database,
            chain=self.chain,
            blobs=self.blobs,
            auditor=self.audit.auditor,
            keys=self.keystore,
            receipt_key=self.receipt_keys.in_use,
            recover=recover,
            vault=self.typed_domain("PaymentVault"),
            settlement=self.typed_domain("Settlement"),
            pace=self._pace,
            clock=self.chain_now,
            thaw_seconds=int(self.chain.call("PaymentVault", "thawSeconds")),
            report_uncovered=UNCOVERED_UNITS.set,
        )

    @property
    def _pace(self) -> Pace:
        from backend.services.settle.pace import Pace

        settings, is_local = self.settings, self.deployment.chain_id == LOCAL_CHAIN_ID
        seconds, units = settings.batch_seconds, settings.min_collected
        if seconds is None:
            seconds = LOCAL_BATCH_SECONDS if is_local else PUBLIC_BATCH_SECONDS
        if units is None:
            units = 0 if is_local else PUBLIC_MIN_COLLECTED
        return Pace(seconds, settings.batch_receipts, units * UNIT)

    @cached_property
    def audit(self) -> Audit:
        return Audit(self, self.database)

    # Datanets and uploads

    @cached_property
    def datanets(self) -> Datanets:
        return Datanets(self, lambda: self.consent, lambda: self.relays)

    @cached_property
    def transfers(self) -> Transfers:
        from backend.services.contribute.transfers import Transfers

        settings = self.settings
        folder, reserved = settings.home / "transfers", settings.reserved_disk_bytes
        return Transfers(folder, settings.max_upload_bytes, reserved=reserved)

    # Training

    @cached_property
    def training_payments(self) -> Payments:
        """Opens a receipt key only when a receipt is signed."""
        from backend.services.train.payments import Payments

        max_lag = self.settings.max_lag_seconds
        return Payments(self.counterparty, self.bases, self.receipt_keys.in_use, max_lag)

    @cached_property
    def training(self) -> Training:
        from backend.services.train.jobs import Training

        return Training(self.database, self.training_payments)

    @cached_property
    def estimates(self) -> Estimates:
        from backend.installation.tokenizer import TokenizerProcess
        from backend.services.train.estimate import Estimates

        cache, infos = self.settings.model_cache, self.base_models
        tokenisers = {digest: TokenizerProcess(info.folder, cache) for digest, info in infos.items()}
        return Estimates(self.database, self.datanets.snapshots, tokenisers, self.training_payments)

    @cached_property
    def leases(self) -> Leases:
        from backend.services.train.leases import Leases

        return Leases(self.database, self.training_payments)

    @cached_property
    def imported_adapters(self) -> ImportedAdapters:
        from backend.services.train.imported import ImportedAdapters

        return ImportedAdapters(self.database, self.transfers)

    @cached_property
    def publication(self) -> Publication:
        from backend.services.train.publication import Publication

        return Publication(self.database, self.blobs, self.chain, self.screening)

    # Webhooks

    @cached_property
    def signing_secrets(self) -> SigningSecrets:
        from backend.services.webhooks.signing import SigningSecrets

        return SigningSecrets(self.signing_keys.webhook_key)

    @cached_property
    def webhook_deliveries(self) -> Deliveries:
        from backend.services.webhooks.delivery import Deliveries

        return Deliveries(self.database, self.outbound, self.signing_secrets, utc_now)

    @cached_property
    def balance_events(self) -> BalanceEvents:
        from backend.services.accounts.balance_events import BalanceEvents

        return BalanceEvents(self.database, self.counterparty, utc_now)
