"""Measures building a batch: `python -m benchmarks.batch [--json] [--receipts N] [--contributors N]`.

Trees, splits and encodings are real, over random valid receipts. Signing them is not included.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from statistics import median

from backend.domain.batch import OperatorLedger, build
from backend.domain.batch_data import BatchName, encode
from backend.domain.hashing import channel_id, version_id
from backend.domain.ids import Account, SnapshotId, VersionId
from backend.domain.money import PPM
from backend.domain.parameters import ParameterSet
from backend.domain.receipt import Share, SignedReceipt, Slice, VersionRecord
from backend.domain.rules import Rules
from tools.labels import some_account, some_hash
from tools.receipts import new_receipt

METHOD = "benchmark"
NUM_CHANNELS = 100


class Registry:
    """One version over one snapshot of `num_contributors` contributions."""

    def __init__(self, num_contributors: int) -> None:
        self.snapshot_id = SnapshotId(some_hash("snapshot"))
        self.record = VersionRecord(
            creator=some_account("creator"),
            name="benchmark",
            adapter_digest=some_hash("adapter"),
            cid_digest=some_hash("folder"),
            base_model=some_hash("base"),
            snapshots=(self.snapshot_id,),
            prompt_price=1_000_000,
            completion_price=3_000_000,
            operator_ppm=300_000,
            creator_ppm=200_000,
        )
        self.version_id = version_id(self.record)
        self._contributors = [some_account(f"contributor {n}") for n in range(num_contributors)]

    def version(self, version: VersionId) -> VersionRecord | None:
        return self.record if version == self.version_id else None

    def contributor_of(self, snapshot: SnapshotId, index: int) -> Account | None:
        known = snapshot == self.snapshot_id and index < len(self._contributors)
        return self._contributors[index] if known else None


def receipts(
    registry: Registry,
    count: int,
    num_contributors: int,
    num_slices: int = 1,
    tokens: tuple[int, int] = (10, 500),
) -> list[SignedReceipt]:
    """Valid receipts on `NUM_CHANNELS` channels, in the order of a batch, with random shares, the same in
    each slice, and between the two numbers of `tokens` of either kind.
    """
    source = random.Random(0)  # noqa: S311 - a fixed seed, so that runs are comparable
    operator, settlement = some_account("operator"), some_account("settlement")
    channels = sorted(
        channel_id(some_account(f"payer {n}"), operator, settlement) for n in range(NUM_CHANNELS)
    )
    found: list[SignedReceipt] = []
    for number in range(count):
        channel = channels[number * NUM_CHANNELS // count]
        is_first = not found or found[-1].receipt.channel_id != channel
        start = 0 if is_first else found[-1].receipt.cumulative
        parts = [source.randint(1, PPM // num_contributors) for _ in range(num_contributors)]
        parts[0] += PPM - sum(parts)
        shares = tuple(map(Share, range(num_contributors), parts))
        slices = (Slice(registry.version_id, PPM // num_slices, shares),) * num_slices
        prices, spent = [registry.record] * num_slices, (source.randint(*tokens), source.randint(*tokens))
        receipt = new_receipt(channel, start, METHOD, slices, prices, spent)
        found.append(SignedReceipt(receipt, METHOD, slices, "0x" + "11" * 65))
    return found


def measure(count: int, num_contributors: int, repeats: int) -> dict[str, float]:
    """Median seconds over `repeats` runs in this process."""
    registry = Registry(num_contributors)
    signed = receipts(registry, count, num_contributors)
    terms = ParameterSet(0, some_account("treasury"), 50_000, 0, 0, 0, 0, 0, 0)
    built, encoded = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        batch = build(some_account("operator"), OperatorLedger(), terms, signed, Rules(registry))
        built.append(time.perf_counter() - began)
        began = time.perf_counter()
        encode(BatchName(1, some_account("settlement"), batch.operator, batch.number), batch.receipts)
        encoded.append(time.perf_counter() - began)
    return {"build_s": median(built), "encode_s": median(encoded)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--receipts", type=int, default=10_000)
    parser.add_argument("--contributors", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    figures = measure(options.receipts, options.contributors, options.repeats)
    if options.json:
        print(json.dumps({"figures": {name: round(value, 3) for name, value in figures.items()}}))
        return
    for name, value in figures.items():
        print(f"{name:10} {value:8.3f}")


if __name__ == "__main__":
    main()
