"""Measures judging a batch that is right: `python -m benchmarks.judging [--receipts N] [--shares N]`.

Peak memory is what a process takes beyond what it had before it read the batch's data; `per_byte` relates it
to their size. Signatures are not checked: they need processor time, but no memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from backend.disk.files import pieces
from backend.domain.batch import CommitTerms, Header, OperatorLedger, build
from backend.domain.batch_data import BatchName, decode_chunks, encode
from backend.domain.ids import ZERO_HASH, Account
from backend.domain.judging.case import Case, Right
from backend.domain.judging.judge import judge
from backend.domain.parameters import ParameterSet
from backend.domain.rules import Rules
from benchmarks import batch as batches
from benchmarks.engine.measure import peak_rss_bytes

if TYPE_CHECKING:
    from backend.domain.batch import Span
    from backend.domain.ids import DatanetId, SnapshotId, VersionId
    from backend.domain.registries import Contribution, Snapshot

TERMS = ParameterSet(0, Account("0x" + "99" * 20), 50_000, 0, 0, 0, 0, 0, 0)
TOKENS = 500_000, 1_000_000
"""So many that no part of a receipt is zero."""
CHUNK = 256 << 10


class Registry(batches.Registry):
    """As `judge` needs it for a batch that is right."""

    def registered_at(self, version: VersionId) -> int | None:
        return 0 if self.version(version) else None

    def snapshot(self, snapshot: SnapshotId) -> Snapshot | None:
        raise AssertionError(f"judging a right batch read snapshot {snapshot}")

    def contribution(self, datanet: DatanetId, index: int) -> Contribution | None:
        raise AssertionError(f"judging a right batch read contribution {index} of datanet {datanet}")


def publish(path: Path, count: int, num_slices: int, num_shares: int) -> tuple[Header, tuple[Span, ...]]:
    """Write the data of a batch with so many receipts to a file."""
    registry = Registry(num_shares)
    signed = batches.receipts(registry, count, num_shares, num_slices, TOKENS)
    operator = Account("0x" + "11" * 20)
    built = build(operator, OperatorLedger(), TERMS, signed, Rules(registry))
    path.write_bytes(encode(BatchName(1, operator, operator, 1), signed))
    return built.header(CommitTerms(committed_at=1), ZERO_HASH), built.spans


def judge_file(path: Path, header: Header, spans: tuple[Span, ...], num_shares: int) -> dict[str, float]:
    """Decode and judge the data, in a process of its own."""
    before, began = peak_rss_bytes(), time.process_time()
    _, receipts = decode_chunks(pieces(path, CHUNK))
    decoded = peak_rss_bytes()
    case = Case(header=header, parent=None, spans=spans, receipts=receipts, ledger=OperatorLedger())
    judged = judge(case, Registry(num_shares), TERMS, lambda _: True)
    if not isinstance(judged, Right):
        raise TypeError(judged)
    peak, size = peak_rss_bytes() - before, path.stat().st_size
    return {
        "data_mb": size / 1e6,
        "entries": header.entries_count,
        "decoded_mb": (decoded - before) / 1e6,
        "peak_mb": peak / 1e6,
        "per_byte": peak / size,
        "per_entry_b": peak / header.entries_count,
        "cpu_s": time.process_time() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--receipts", type=int, default=500)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--shares", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch.jsonl"
        header, spans = publish(path, options.receipts, options.slices, options.shares)
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=fresh) as executor:
            figures = executor.submit(judge_file, path, header, spans, options.shares).result()
    if options.json:
        print(json.dumps({"figures": {name: round(value, 3) for name, value in figures.items()}}))
        return
    for name, value in figures.items():
        print(f"{name:12} {value:12.2f}")


if __name__ == "__main__":
    main()
