"""Wires the audit of batches and of the receipts in them, by the view of the chain in one database."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from backend.ports.storage import fetch_nothing

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.installation.resources import Resources
    from backend.ports.storage import FetchFolder
    from backend.services.audit.auditor import Auditor
    from backend.services.audit.background import BackgroundAudits
    from backend.services.audit.cases import Cases
    from backend.services.background import Background
    from backend.services.receipts.proofs import Proofs
    from backend.services.receipts.verification import Verification

MAX_QUEUED_PROOFS = 16
"""Batches that wait to be built for proofs, of which one at a time is."""


MAX_QUEUED_AUDITS = 200
"""Audits that wait for a thread: those of two pages of operators."""


class Audit:
    """Services of one view. All but `verification` fetch missing batch data from the operators."""

    def __init__(self, resources: Resources, db: Database) -> None:
        self._resources, self._db = resources, db

    def cases(self) -> Cases:
        """New cases of the batches. Judging one takes at most half of the machine's or container's memory."""
        return self._cases(self._resources.peers_for(self._db).fetch)

    def _cases(self, fetch: FetchFolder) -> Cases:
        from backend.chain.keys import recover
        from backend.processes.memory import machine_memory
        from backend.services.audit.cases import Cases
        from backend.services.audit.published import MEMORY_FACTOR

        resources = self._resources
        settlement = resources.typed_domain("Settlement")
        max_judged = machine_memory() // 2 // MEMORY_FACTOR
        return Cases(resources.chain, resources.blobs, recover, settlement, max_judged, fetch)

    @cached_property
    def auditor(self) -> Auditor:
        from backend.services.audit.auditor import Auditor

        return Auditor(self._db, self.cases())

    @cached_property
    def background(self) -> Background:
        from backend.services.background import Background

        return Background(max_queued=MAX_QUEUED_AUDITS)

    @cached_property
    def audits(self) -> BackgroundAudits:
        from backend.services.audit.background import BackgroundAudits

        return BackgroundAudits(self._db, self.auditor, self.background)

    @cached_property
    def proofs(self) -> Proofs:
        from backend.services.background import Background
        from backend.services.receipts.proofs import Proofs

        # Apart from what claims wait for: anyone may request proofs, from any batch, without an account.
        background = Background(max_threads=1, max_queued=MAX_QUEUED_PROOFS)
        return Proofs(self._db, self.auditor, self._resources.chain, background)

    @cached_property
    def verification(self) -> Verification:
        """Verifies receipts offline: uses batch data of the local store, and fetches none from operators."""
        from backend.chain.keys import recover
        from backend.services.audit.auditor import Auditor
        from backend.services.receipts.verification import Verification

        auditor = Auditor(self._db, self._cases(fetch_nothing))
        return Verification(self._db, auditor, recover, self._resources.typed_domain("Settlement"))
