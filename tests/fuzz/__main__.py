"""Fuzzes the parsers of foreign bytes: `python -m tests.fuzz [--target NAME] [--minutes N] [--keep]`.

Installs atheris under build/fuzz. Each target begins with its seeds and its corpora of build/fuzz and
tests/corpora, and ends at its first finding, whose input it names. `--keep` stores the smallest inputs of its
corpus in tests/corpora. All runs are in build/fuzz/report.json. Exit status 1 with findings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fuzz.targets import CORPORA, TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fuzz.target import Target

ATHERIS = "atheris==3.0.0"
BUILD = Path("build", "fuzz")
PACKAGES, REPORT = BUILD / "packages", BUILD / "report.json"
MINUTES = 60.0
LIMITS = ("-timeout=60", "-rss_limit_mb=4096")
"""Of one input; `tests.fuzz.target` has narrower ones."""
MAX_KEPT_BYTES = 8_000
"""Of a target's corpus in the repository, without what found something."""
FOUND = "found-"
"""Begin of the names of inputs that found something: they are always kept."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="default: all in turn")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of each target (default: 60)")
    parser.add_argument("--keep", action="store_true", help="store the smallest inputs in tests/corpora")
    options = parser.parse_args()
    install()
    findings = 0
    for name in options.target or TARGETS:
        run = fuzz(TARGETS[name], options.minutes)
        record(run)
        print(json.dumps(run), flush=True)
        findings += run["finding"] is not None
        if options.keep and run["finding"] is None:
            keep(TARGETS[name])
    return 1 if findings else 0


def install() -> None:
    if not (PACKAGES / "atheris").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(PACKAGES), ATHERIS], check=True)


def fuzz(target: Target, minutes: float) -> dict[str, Any]:
    """Run one target; returns what it did, and the input of a finding."""
    corpus, found = BUILD / "corpus" / target.name, BUILD / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    for seed in target.seeds():
        (corpus / _name(seed)).write_bytes(seed)
    prefix, log = found / f"{target.name}-", BUILD / f"{target.name}.log"
    for old in found.glob(f"{prefix.name}*"):
        old.unlink()
    limits = (*LIMITS, f"-max_len={target.max_bytes}", f"-max_total_time={max(round(60 * minutes), 1)}")
    folders = [str(corpus), *map(str, [CORPORA / target.name] if (CORPORA / target.name).is_dir() else [])]
    began_at, began = datetime.now(UTC), time.monotonic()
    status = child(target, [*folders, *limits, f"-artifact_prefix={prefix}", "-print_final_stats=1"], log)
    text = log.read_text(errors="replace")
    inputs = sorted(found.glob(f"{prefix.name}*"))
    return {
        "target": target.name,
        "began_at": began_at.isoformat(timespec="seconds"),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "seconds_of_fuzzing": last(text, r"runs in (\d+) second"),
        "executions": last(text, r"#(\d+)\t"),
        "edges": last(text, r"cov: (\d+)"),
        "features": last(text, r"ft: (\d+)"),
        "finding": None if not status else str(inputs[0]) if inputs else f"status {status}; see {log}",
    }


def child(target: Target, options: Sequence[str], log: Path) -> int:
    """Exit status of the process of one target, whose output goes to `log`."""
    paths = [str(PACKAGES), os.environ.get("PYTHONPATH", ""), str(Path.cwd())]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "tests.fuzz.child", target.run.__module__, target.name, *options]
    with log.open("wb") as output:
        return subprocess.run(command, env=environment, stdout=output, stderr=output, check=False).returncode


def last(text: str, pattern: str) -> int:
    """The last number in a log; 0 without one."""
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def keep(target: Target) -> None:
    """Store the smallest inputs that reached something new, next to those that found something."""
    kept = CORPORA / target.name
    kept.mkdir(parents=True, exist_ok=True)
    earlier = [path for path in kept.iterdir() if not path.name.startswith(FOUND)]
    inputs = {path.read_bytes() for path in [*(BUILD / "corpus" / target.name).iterdir(), *earlier]}
    for path in earlier:
        path.unlink()
    total = 0
    for data in sorted(inputs, key=lambda each: (len(each), each)):
        total += len(data)
        if total > MAX_KEPT_BYTES:
            break
        (kept / _name(data)).write_bytes(data)


def record(run: dict[str, Any]) -> None:
    runs = json.loads(REPORT.read_bytes()) if REPORT.exists() else []
    draft = REPORT.with_suffix(".tmp")
    draft.write_text(json.dumps([*runs, run], indent=1) + "\n")
    draft.replace(REPORT)


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
