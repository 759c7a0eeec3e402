"""Wires what the REST API calls. Like `bootstrap`, a composition root."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

from backend.api.services import Services
from backend.chain.contract_wallets import WalletCalls
from backend.chain.keys import recover
from backend.installation.installation import utc_now
from backend.installation.metrics import exposition, metrics_token
from backend.installation.readiness import faults
from backend.installation.tokenizer import ChildTokeniser
from backend.installation.training_payments import payments_of
from backend.services.accounts.idempotency import Idempotency
from backend.services.accounts.payouts import Payouts
from backend.services.accounts.sessions import Sessions
from backend.services.accounts.sign_in import SignIn, SignInPolicy
from backend.services.channels.channels import Channels
from backend.services.channels.deposits import Deposits
from backend.services.contribute.contributions import Contributions
from backend.services.contribute.snapshot import Snapshots
from backend.services.market.governance import Governance
from backend.services.market.provenance import Origins
from backend.services.market.registry import Registry
from backend.services.receipts.receipts import Receipts
from backend.services.settle.convictions import Convictions
from backend.services.train.estimate import Estimates
from backend.services.train.imported import ImportedAdapters
from backend.services.train.jobs import Training
from backend.services.train.publication import Publication
from backend.services.transactions.consent import Consent

if TYPE_CHECKING:
    from backend.installation.installation import Installation


def services_of(installation: Installation) -> Services:
    """Everything that the REST API calls."""
    settings, chain, blobs = installation.settings, installation.chain, installation.blobs
    db, lane = installation.database, installation.operator.account
    vouchers = installation.domain("PaymentVault")
    convictions = Convictions(lane, chain, blobs, installation.domain("Settlement"))
    policy = SignInPolicy(settings.origins, installation.deployment.chain_id)
    sessions = Sessions(db, utc_now)
    consent = Consent(recover, WalletCalls.connect(settings.rpc_url))
    snapshots = Snapshots(db, blobs, chain, lane)
    payments = payments_of(installation)
    tokeniser = ChildTokeniser(installation.base.folder, settings.model_cache)
    return Services(
        sign_in=SignIn(db, sessions, consent, utc_now, policy),
        sessions=sessions,
        keys=installation.api_keys,
        catalogue=installation.catalogue,
        generate=installation.generate,
        idempotency=Idempotency(db, utc_now, installation.limits.longest_seconds),
        channels=Channels(db, installation.market, vouchers, recover, utc_now, convictions.aside),
        deposits=Deposits(db, chain, installation.market, installation.keystore, utc_now),
        receipts=Receipts(db),
        proofs=installation.proofs,
        registry=Registry(db, chain, blobs),
        contributions=Contributions(db, blobs, chain, consent, installation.upload_check, lane),
        transfers=installation.transfers,
        snapshots=snapshots,
        training=Training(db, payments),
        estimates=Estimates(db, snapshots, tokeniser, payments.price),
        imported_adapters=ImportedAdapters(db, installation.transfers),
        operators=installation.operators,
        origins=Origins(db),
        policy=installation.policy,
        publication=Publication(db, blobs, chain, installation.gate),
        claims=installation.claims,
        payouts=Payouts(db, chain, installation.claims, lane),
        governance=Governance(chain, db),
        blobs=blobs,
        is_here=installation.is_here,
        metrics=partial(exposition, installation),
        metrics_token=cache(partial(metrics_token, settings)),
        readiness=partial(faults, installation),
    )
