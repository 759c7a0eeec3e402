"""Other operators of this chain, as sources of published content.

Where they are, the chain says; what they send is whoever's, and is taken only if it is the tree that was
asked for, block by block.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from backend.domain.content import ContentCorrupt, decode_cid, verify_block
from backend.ports.outbound import UnexpectedStatus, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account, Cid
    from backend.domain.registries import Operator
    from backend.ports.outbound import OutboundHttp
    from backend.ports.storage import BlobStore

RAW, CAR = "application/vnd.ipld.raw", "application/vnd.ipld.car"
MAX_ASKED = 8
"""Operators that are asked for one content."""
BLOCK_SECONDS, TREE_SECONDS = 5.0, 150.0
MAX_BLOCK_BYTES = 2 << 20
LACKS_SECONDS, AWAY_SECONDS = 10.0, 30.0
"""For which who lacks a content is not asked for it again, and who does not answer not for anything."""
MAX_REMEMBERED = 10_000
OVERHEAD = 2
"""A tree's blocks, and the CAR around them, are below this many times its files, but for what is tiny."""
MIN_TREE_BYTES, MAX_TREE_BYTES = 4 << 20, 4 << 30

log = logging.getLogger(__name__)


class Peers:
    """`own`: who is never asked, None where this installation is no operator."""

    def __init__(
        self,
        db: Database,
        outbound: OutboundHttp,
        blobs: BlobStore,
        own: Account | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db, self._outbound, self._blobs, self._own = db, outbound, blobs, own
        self._clock = clock
        self._rests: dict[tuple[Account, Cid | None], float] = {}
        """Until when an operator is not asked: for one content, or at all."""

    def bring(self, cid: Cid, max_bytes: int, first: Account | None = None) -> None:
        """Have the folder in our store, if an operator within reach has it: `first` is asked before others.

        `max_bytes`: of its files together. That nobody has it is no error here, but where it is read.
        """
        if self._blobs.has(cid):
            return
        for operator in self._candidates(cid, first):
            try:
                self._fetch(operator.endpoint.rstrip("/"), cid, max_bytes)
            except UnexpectedStatus:
                self._rest(operator.account, cid, LACKS_SECONDS)
            except (Unreachable, ContentCorrupt) as error:
                log.info("operator %s does not give %s: %s", operator.account, cid, error)
                self._rest(operator.account, None, AWAY_SECONDS)
            else:
                log.info("operator %s gave %s", operator.account, cid)
                return

    def _candidates(self, cid: Cid, first: Account | None) -> list[Operator]:
        with self._db.read() as tx:
            known = [o for o in tx.chain.operators() if o.endpoint and o.account != self._own]
        now = self._clock()
        rested = [
            o for o in known if all(self._rests.get((o.account, what), now) <= now for what in (cid, None))
        ]
        return sorted(rested, key=lambda o: (o.account != first, -o.stake, o.account))[:MAX_ASKED]

    def _fetch(self, endpoint: str, cid: Cid, max_bytes: int) -> None:
        """The root alone first: who has it not, or is somebody else, is found out soon and at little cost."""
        url = f"{endpoint}/ipfs/{cid}?format="
        root = self._get(f"{url}raw", RAW, MAX_BLOCK_BYTES, BLOCK_SECONDS)
        verify_block(decode_cid(cid), b"".join(root))
        limit = min(max(OVERHEAD * max_bytes, MIN_TREE_BYTES), MAX_TREE_BYTES)
        self._blobs.add_car(cid, self._get(f"{url}car", CAR, limit, TREE_SECONDS))

    def _get(self, url: str, accept: str, max_bytes: int, seconds: float) -> Iterator[bytes]:
        return self._outbound.get(url, accept=accept, max_bytes=max_bytes, seconds=seconds)

    def _rest(self, operator: Account, cid: Cid | None, seconds: float) -> None:
        now = self._clock()
        if len(self._rests) >= MAX_REMEMBERED:
            self._rests = {key: until for key, until in self._rests.items() if until > now}
        self._rests[operator, cid] = now + seconds
