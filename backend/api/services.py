"""The services that the API's routers call. Built by `backend.installation`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from backend.api.rate_limits import RateLimits
    from backend.domain.deployment import Deployment
    from backend.domain.ids import Cid
    from backend.domain.readiness import Fault
    from backend.ports.storage import BlobStore
    from backend.services.accounts.api_keys import ApiKeys
    from backend.services.accounts.claims import Claims
    from backend.services.accounts.earned_receipt import EarnedReceipts
    from backend.services.accounts.earnings import Earnings
    from backend.services.accounts.idempotency import Idempotency
    from backend.services.accounts.local_funds import LocalFunds
    from backend.services.accounts.payouts import Payouts
    from backend.services.accounts.sessions import Sessions
    from backend.services.accounts.sign_in import SignIn
    from backend.services.answers.generate import Generate
    from backend.services.answers.live_agreement import LiveAgreements
    from backend.services.channels.channels import Channels
    from backend.services.channels.deposits import Deposits
    from backend.services.channels.moves import Moves
    from backend.services.contribute.contributions import Contributions
    from backend.services.contribute.snapshot import Snapshots
    from backend.services.contribute.transfers import Transfers
    from backend.services.market.catalogue import Catalogue
    from backend.services.market.denials import Denials
    from backend.services.market.governance import Governance
    from backend.services.market.lineage import Lineages
    from backend.services.market.registry import Registry
    from backend.services.operator.directory import Operators
    from backend.services.operator.overview import Overviews
    from backend.services.receipts.proofs import Proofs
    from backend.services.receipts.receipts import Receipts
    from backend.services.train.estimate import Estimates
    from backend.services.train.imported import ImportedAdapters
    from backend.services.train.jobs import Training
    from backend.services.train.publication import Publication
    from backend.services.webhooks.endpoints import Endpoints


@dataclass(frozen=True, slots=True)
class Services:
    sign_in: SignIn
    sessions: Sessions
    keys: ApiKeys
    rate_limits: RateLimits
    deployment: Deployment
    catalogue: Catalogue
    lineages: Lineages
    generate: Generate
    live_agreements: LiveAgreements
    idempotency: Idempotency
    channels: Channels
    deposits: Deposits
    moves: Moves
    receipts: Receipts
    proofs: Proofs
    registry: Registry
    contributions: Contributions
    transfers: Transfers
    snapshots: Snapshots
    training: Training
    estimates: Estimates
    imported_adapters: ImportedAdapters
    operators: Operators
    overviews: Overviews
    denials: Denials
    publication: Publication
    claims: Claims
    earnings: Earnings
    earned_receipts: EarnedReceipts
    payouts: Payouts
    local_funds: LocalFunds
    governance: Governance
    webhooks: Endpoints
    blobs: BlobStore
    is_local: Callable[[Cid], bool]
    """Whether looking a CID up in `blobs` stays on this machine: unauthenticated requests must not start
    searches in the IPFS network.
    """
    metrics: Callable[[], Awaitable[bytes]]
    """Renders all metrics in Prometheus' text format."""
    metrics_token: Callable[[], str]
    """Bearer token that callers of `GET /metrics` must present."""
    readiness: Callable[[], Awaitable[Mapping[str, Fault]]]
    """Faults by part; empty if all parts are ready."""
