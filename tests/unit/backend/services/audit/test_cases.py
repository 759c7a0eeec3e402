from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.batch import CommitTerms
from backend.domain.batch_data import FILE_NAME, BatchName, encode
from backend.domain.content import ContentMissing, ContentUnsafe, cid_digest
from backend.domain.errors import Unavailable
from backend.services.audit.cases import RETRY_SECONDS, Cases
from backend.services.audit.published import MAX_DATA_BYTES, BatchTooLarge, read_batch_data
from backend.storage.folders import folder_cid
from tests.support.market import CHAIN_ID, Market, recover

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.batch import Header
    from backend.domain.ids import Cid


class FakeBlobStore:
    """Stores one folder after it is added, and counts lookups."""

    def __init__(self, size: int | None = None) -> None:
        """`size`: what every folder states of its file."""
        self.files: dict[Cid, bytes] = {}
        self.num_looks = 0
        self._size = size

    def names(self, cid: Cid) -> dict[str, int]:
        self.num_looks += 1
        if self._size is not None:
            return {FILE_NAME: self._size}
        if cid not in self.files:
            raise ContentMissing(f"no {cid}")
        return {FILE_NAME: len(self.files[cid])}

    def open(self, cid: Cid, name: str) -> Iterator[bytes]:
        yield self.files[cid]


def test_data_that_is_missing_is_asked_for_again_after_a_while_and_kept_once_it_is_there() -> None:
    market, store, now = Market(), FakeBlobStore(), [0.0]
    batch = market.batch(market.receipts(3))
    data = encode(BatchName(CHAIN_ID, market.settlement, market.operator, 1), batch.receipts)
    cid = folder_cid({FILE_NAME: data})
    header = batch.header(CommitTerms(1, 2), cid_digest(cid))
    unused: Any = None
    cases = Cases(unused, store, recover, market.domain, clock=lambda: now[0])  # type: ignore[arg-type]

    def receipts() -> Any:
        return cases.receipts(header)[0]

    assert (receipts(), receipts(), store.num_looks) == (None, None, 1)
    store.files[cid] = data
    assert receipts() is None
    now[0] += RETRY_SECONDS + 1
    assert receipts() == batch.receipts
    now[0] += RETRY_SECONDS + 1
    assert receipts() == batch.receipts
    assert store.num_looks == 2


class UnsafeStore(FakeBlobStore):
    def names(self, cid: Cid) -> dict[str, int]:
        raise ContentUnsafe("a name leads outside")


@pytest.mark.parametrize(
    ("store", "why"),
    [(UnsafeStore(), "leads outside"), (FakeBlobStore(MAX_DATA_BYTES + 1), "larger than")],
)
def test_data_that_no_market_reads_are_malformed_and_demanded(store: FakeBlobStore, why: str) -> None:
    market = Market()
    header = market.batch(market.receipts(3)).header(CommitTerms(1, 2), cid_digest(folder_cid({"a": b""})))
    header = replace(header, receipts_count=(1 << 32) - 1)
    receipts, finding = read_batch_data(header, store, market.domain)  # type: ignore[arg-type]
    assert receipts is None
    assert finding is not None
    assert finding.what == "data_malformed"
    assert why in finding.message


def published(market: Market, store: FakeBlobStore) -> Header:
    batch = market.batch(market.receipts(3))
    data = encode(BatchName(CHAIN_ID, market.settlement, market.operator, 1), batch.receipts)
    cid = folder_cid({FILE_NAME: data})
    store.files[cid] = data
    return batch.header(CommitTerms(1, 2), cid_digest(cid))


def test_data_that_take_more_memory_than_there_is_are_not_read_and_not_called_malformed() -> None:
    market, store = Market(), FakeBlobStore()
    header = published(market, store)
    (data,) = store.files.values()
    assert read_batch_data(header, store, market.domain, len(data))[0] is not None  # type: ignore[arg-type]
    store.open = None  # type: ignore[method-assign, assignment]
    with pytest.raises(BatchTooLarge, match="too large to be judged here"):
        read_batch_data(header, store, market.domain, len(data) - 1)  # type: ignore[arg-type]


def test_a_file_that_is_larger_than_its_folder_states_is_not_read_on() -> None:
    market, store = Market(), FakeBlobStore()
    header = published(market, store)
    store._size = 100
    receipts, finding = read_batch_data(header, store, market.domain)  # type: ignore[arg-type]
    assert (receipts, finding and finding.what) == (None, "data_malformed")


def test_only_batches_that_take_little_memory_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    market, store = Market(), FakeBlobStore()
    header = published(market, store)
    unused: Any = None
    cases = Cases(unused, store, recover, market.domain)  # type: ignore[arg-type]
    assert cases.receipts(header) is cases.receipts(header)
    monkeypatch.setattr("backend.services.audit.cases.MAX_CACHED_BYTES", 1)
    large = Cases(unused, store, recover, market.domain)  # type: ignore[arg-type]
    assert large.receipts(header) is not large.receipts(header)


def test_several_threads_use_large_batches_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    market, store = Market(), FakeBlobStore()
    header = published(market, store)
    unused: Any = None
    cases = [Cases(unused, store, recover, market.domain) for _ in range(2)]  # type: ignore[arg-type]
    monkeypatch.setattr("backend.services.audit.cases.SMALL_DATA_BYTES", 1)
    monkeypatch.setattr("backend.services.audit.cases.WAIT_SECONDS", 0.01)

    def use() -> int:
        with cases[1].reading(header) as (receipts, _):
            return len(receipts or ())

    with ThreadPoolExecutor(1) as executor:
        with cases[0].reading(header), pytest.raises(Unavailable, match="another large batch"):
            executor.submit(use).result()
        assert executor.submit(use).result() == 3
