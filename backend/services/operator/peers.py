"""Fetches published content from other operators, whose endpoints are on the chain.

Their responses are untrusted: a folder is stored only if every block matches the requested CID's tree.
"""

from __future__ import annotations

import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from backend.domain.content import ContentCorrupt, decode_cid, verify_block
from backend.ports.outbound import UnexpectedStatus, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from backend.db.unit_of_work import Database
    from backend.disk.space import DiskSpace
    from backend.domain.ids import Account, Cid
    from backend.domain.registries import Operator
    from backend.ports.outbound import OutboundHttp
    from backend.ports.storage import BlobStore

    Add = Callable[[Cid, Iterable[bytes]], None]

RAW, CAR = "application/vnd.ipld.raw", "application/vnd.ipld.car"
MAX_ASKED = 8
"""Maximum number of operators asked for one content."""
BLOCK_SECONDS, TREE_SECONDS = 5.0, 150.0
MIN_TREE_RATE = 256 << 10
"""Bytes per second. Few trees are fetched at a time, and those of slow operators must not hold up others."""
FETCH_SECONDS = 200.0
"""After so much time no other operator is asked for the same content: several may serve slowly."""
MAX_BLOCK_BYTES = 2 << 20
LACKS_SECONDS, AWAY_SECONDS = 10.0, 30.0
"""Backoff for one content after an operator lacked it, and for all contents after it did not answer."""
MAX_REMEMBERED = 10_000
OVERHEAD = 2
"""Blocks and CAR of a tree have less than this many times the bytes of its files, except for tiny trees."""
MIN_TREE_BYTES, MAX_TREE_BYTES = 4 << 20, 4 << 30

log = logging.getLogger(__name__)


class Peers:
    """`own` is this installation's operator, which is never asked; None if it has none. `space`: what may be
    filled: the data of other operators' batches have no other limit together.
    """

    def __init__(
        self,
        db: Database,
        outbound: OutboundHttp,
        blobs: BlobStore,
        own: Account | None,
        space: DiskSpace,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db, self._outbound, self._blobs, self._own = db, outbound, blobs, own
        self._space, self._clock = space, clock
        self._backoffs: dict[tuple[Account, Cid | None], float] = {}
        """Time until which an operator is not asked for one content, or (None) for any."""

    def fetch(self, cid: Cid, max_bytes: int, first: Account | None = None) -> None:
        """Fetch the folder into our store if a reachable operator has it; ask `first` before the others.

        `max_bytes` limits the sum of its files. If no operator has it this returns, and reading it raises.
        Errors: `DiskFull`.
        """
        if not self._blobs.keep(cid):
            self._fetch(cid, max_bytes, self._blobs.add_car, first)

    def fetch_copy(self, cid: Cid, max_bytes: int, first: Account | None = None) -> None:
        """As `fetch`, but what is fetched may be evicted when room is needed."""
        if not self._blobs.has(cid):
            self._fetch(cid, max_bytes, self._blobs.add_copy, first)

    def _fetch(self, cid: Cid, max_bytes: int, add: Add, first: Account | None) -> None:
        ends_at = self._clock() + FETCH_SECONDS
        for operator in self._candidates(cid, first):
            if self._clock() > ends_at:
                return
            try:
                self._fetch_from(operator.endpoint.rstrip("/"), cid, max_bytes, add)
            except UnexpectedStatus as error:
                if error.details.get("status") == HTTPStatus.TOO_MANY_REQUESTS:
                    self._back_off(operator.account, None, AWAY_SECONDS)
                else:
                    self._back_off(operator.account, cid, LACKS_SECONDS)
            except (Unreachable, ContentCorrupt) as error:
                log.info("operator %s did not serve %s: %s", operator.account, cid, error)
                self._back_off(operator.account, None, AWAY_SECONDS)
            else:
                log.info("operator %s served %s", operator.account, cid)
                return

    def _candidates(self, cid: Cid, first: Account | None) -> list[Operator]:
        with self._db.read() as tx:
            known = [o for o in tx.chain.reachable_operators() if o.account != self._own]
        now = self._clock()
        available = [
            o for o in known if all(self._backoffs.get((o.account, key), now) <= now for key in (cid, None))
        ]
        return sorted(available, key=lambda o: (o.account != first, -o.stake, o.account))[:MAX_ASKED]

    def _fetch_from(self, endpoint: str, cid: Cid, max_bytes: int, add: Add) -> None:
        """Fetch the root block first: it shows cheaply whether the operator has the folder."""
        url = f"{endpoint}/ipfs/{cid}?format="
        root = self._outbound.get(f"{url}raw", accept=RAW, max_bytes=MAX_BLOCK_BYTES, seconds=BLOCK_SECONDS)
        verify_block(decode_cid(cid), b"".join(root))
        limit = min(max(OVERHEAD * max_bytes, MIN_TREE_BYTES), MAX_TREE_BYTES)
        tree = self._outbound.get(
            f"{url}car", accept=CAR, max_bytes=limit, seconds=TREE_SECONDS, min_rate=MIN_TREE_RATE
        )
        add(cid, self._space.limit(tree, is_copied=True))  # a store writes a temporary file first

    def _back_off(self, operator: Account, cid: Cid | None, seconds: float) -> None:
        now = self._clock()
        if len(self._backoffs) >= MAX_REMEMBERED:
            self._backoffs = {key: until for key, until in self._backoffs.items() if until > now}
        self._backoffs[operator, cid] = now + seconds
