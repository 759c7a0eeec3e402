"""The kept inputs of each target, without atheris: what was found once is not found again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fuzz.documents import receipt_seeds
from tests.fuzz.messages import repeated_bytes
from tests.fuzz.replay import replay
from tests.fuzz.target import ENVIRONMENT, Exhausted, Target, check
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "parquet"])
def test_kept_inputs_and_seeds_find_nothing(name: str) -> None:
    replay(TARGETS[name])


def test_kept_parquet_files_find_nothing() -> None:
    """In a process of its own, because Arrow chooses its memory pool when it is loaded."""
    command = [sys.executable, "-m", "tests.fuzz.replay", "parquet"]
    subprocess.run(command, env=os.environ | ENVIRONMENT, check=True)


def test_a_long_row_of_repeated_keys_is_read_in_linear_time() -> None:
    keys = ",".join(f'"{number:x}":1' for number in range(80_000))
    check(TARGETS["jsonl"], b"\xff{" + keys.encode() + b',"1":1}')


def test_a_call_that_names_the_same_bytes_many_times_is_not_expanded() -> None:
    check(TARGETS["call_data"], repeated_bytes(3_000, 96_000))


def test_evidence_has_no_more_snapshots_than_a_receipt_can_name() -> None:
    manifest = b'{"datanetId":1,"count":16777216,"contributions":[]}'
    evidence = b'"evidence":{"snapshots":[' + b",".join([manifest] * 100) + b"]},"
    check(TARGETS["receipt"], receipt_seeds()[0].replace(b"{", b"{" + evidence, 1))


def test_an_input_for_which_too_much_memory_is_taken_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.target.MAX_GROWTH_KIB", -1)
    with pytest.raises(Exhausted, match="1 bytes took"):
        check(Target("any", len, list), b"a")
