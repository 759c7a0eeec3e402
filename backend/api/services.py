"""What the API is made of: every service a router calls. `backend.bootstrap` builds it from adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from backend.domain.ids import Cid
    from backend.ports.storage import BlobStore
    from backend.services.catalogue import Catalogue
    from backend.services.channels import Channels
    from backend.services.claim import Claims
    from backend.services.contribute.contributions import Contributions
    from backend.services.contribute.snapshot import Snapshots
    from backend.services.contribute.transfers import Transfers
    from backend.services.deposit import Deposits
    from backend.services.generate import Generate
    from backend.services.govern import Governance
    from backend.services.idempotency import Idempotency
    from backend.services.keys import ApiKeys
    from backend.services.operators import Operators
    from backend.services.origins import Origins
    from backend.services.payouts import Payouts
    from backend.services.policy import Policy
    from backend.services.prove import Proofs
    from backend.services.publish import Publication
    from backend.services.receipts import Receipts
    from backend.services.registry import Registry
    from backend.services.sessions import Sessions
    from backend.services.sign_in import SignIn
    from backend.services.train.estimate import Estimates
    from backend.services.train.foreign import ForeignAdapters
    from backend.services.train.jobs import Training


@dataclass(frozen=True, slots=True)
class Services:
    sign_in: SignIn
    sessions: Sessions
    keys: ApiKeys
    catalogue: Catalogue
    generate: Generate
    idempotency: Idempotency
    channels: Channels
    deposits: Deposits
    receipts: Receipts
    proofs: Proofs
    registry: Registry
    contributions: Contributions
    transfers: Transfers
    snapshots: Snapshots
    training: Training
    estimates: Estimates
    foreign_adapters: ForeignAdapters
    operators: Operators
    origins: Origins
    policy: Policy
    publication: Publication
    claims: Claims
    payouts: Payouts
    governance: Governance
    blobs: BlobStore
    is_here: Callable[[Cid], bool]
    """Whether asking `blobs` for it stays on this machine: strangers' requests start no search elsewhere."""
    metrics: Callable[[], Awaitable[bytes]]
    """In Prometheus' text format."""
    metrics_token: Callable[[], str]
    """Shown by whoever may see them."""
    readiness: Callable[[], dict[str, str]]
    """Part -> what is wrong with it; empty when all parts answer."""
