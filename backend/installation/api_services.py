"""Wires the services that the REST API calls."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

from backend.api.rate_limits import RateLimits
from backend.api.services import Services
from backend.installation.metrics import MetricsPage, load_metrics_token
from backend.installation.readiness import PARTS, Readiness
from backend.installation.resources import utc_now
from backend.services.accounts.earned_receipt import EarnedReceipts
from backend.services.accounts.earnings import Earnings
from backend.services.accounts.idempotency import Idempotency
from backend.services.accounts.local_funds import LocalFunds
from backend.services.accounts.payouts import Payouts
from backend.services.audit.earnings import PublishedEntries
from backend.services.channels.deposits import Deposits
from backend.services.channels.moves import Moves
from backend.services.market.governance import Governance
from backend.services.market.lineage import Lineages
from backend.services.market.registry import Registry
from backend.services.operator.overview import Overviews
from backend.services.receipts.receipts import Receipts
from backend.services.webhooks.endpoints import Endpoints

if TYPE_CHECKING:
    from backend.installation.installation import Installation


def api_services(installation: Installation) -> Services:
    """All services that the REST API calls."""
    db, chain, account = installation.database, installation.chain, installation.operator.account
    engines, counterparty, relays = installation.engines, installation.counterparty, installation.relays
    audit = installation.audit
    entries = PublishedEntries(db, audit.cases(), audit.background)
    return Services(
        sign_in=installation.sign_in,
        sessions=installation.sessions,
        keys=installation.api_keys,
        rate_limits=RateLimits(installation.settings, installation.rate_counts),
        deployment=installation.deployment,
        catalogue=installation.catalogue,
        lineages=Lineages(db, utc_now),
        generate=installation.generate,
        live_agreements=installation.attribution.live_agreements,
        idempotency=Idempotency(db, utc_now, installation.limits.longest_seconds),
        channels=installation.channels,
        deposits=Deposits(db, chain, counterparty, relays, installation.keystore, utc_now),
        moves=Moves(db, chain, counterparty, relays, utc_now, installation.settings.max_lag_seconds),
        receipts=Receipts(db),
        proofs=audit.proofs,
        registry=Registry(db, chain, installation.datanets.folders),
        contributions=installation.datanets.contributions,
        transfers=installation.transfers,
        snapshots=installation.datanets.snapshots,
        training=installation.training,
        estimates=installation.estimates,
        imported_adapters=installation.imported_adapters,
        operators=installation.operators,
        overviews=Overviews(db, installation.membership, engines.by_base.values(), account, utc_now),
        denials=installation.denials,
        publication=installation.publication,
        claims=installation.claims,
        earnings=Earnings(db, audit.audits, entries),
        earned_receipts=EarnedReceipts(db, audit.audits, entries),
        payouts=Payouts(chain, installation.claims, relays),
        local_funds=LocalFunds(db, chain, account),
        governance=Governance(chain, db),
        webhooks=Endpoints(db, installation.outbound, installation.signing_secrets, utc_now),
        blobs=installation.blobs,
        is_local=installation.is_local,
        metrics=MetricsPage(db, engines.by_name, account).render,
        metrics_token=cache(partial(load_metrics_token, installation.settings)),
        readiness=Readiness(installation, PARTS).faults,
    )
