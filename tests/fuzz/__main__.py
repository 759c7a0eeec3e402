"""Fuzzes the parsers of foreign bytes: `python -m tests.fuzz [--target NAME] [--minutes N] [--keep]`.

Installs atheris under build/fuzz. Each target begins with its seeds and its corpora of build/fuzz and
tests/corpora. It ends at its first finding, whose input it names, after `--minutes` of processor time, or,
with `--plateau`, when it reaches no new feature of libFuzzer for so many minutes of it. `--keep` stores the
smallest inputs of its corpus in tests/corpora. All runs are in build/fuzz/report.json, also one that is
interrupted. Exit status 1 with findings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from backend.disk.files import write_durably
from tests.fuzz.target import ENVIRONMENT
from tests.fuzz.targets import CORPORA, TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fuzz.target import Target

ATHERIS = "atheris==3.0.0"
BUILD = Path("build", "fuzz")
MEMORY = Path("/dev/shm")  # noqa: S108
PACKAGES, REPORT = BUILD / "packages", BUILD / "report.json"
MINUTES = 60.0
"""Of processor time, so that a busy machine does not shorten a run."""
LIMITS = ("-timeout=60", "-rss_limit_mb=4096")
"""Of one input; `tests.fuzz.target` has narrower ones."""
INTERRUPTED = 72
"""Exit status of libFuzzer after a signal that ends it."""
POLL_SECONDS = 1.0
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
    parser.add_argument(
        "--plateau", type=float, default=math.inf, help="end after so many minutes without a new feature"
    )
    parser.add_argument("--keep", action="store_true", help="store the smallest inputs in tests/corpora")
    options = parser.parse_args()
    install()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    findings = 0
    for name in options.target or TARGETS:
        run = fuzz(TARGETS[name], options.minutes, options.plateau)
        record(run)
        print(json.dumps(run), flush=True)
        findings += run["finding"] is not None
        if options.keep and run["finding"] is None:
            keep(TARGETS[name])
        if run["is_interrupted"]:
            break
    return 1 if findings else 0


def install() -> None:
    if not (PACKAGES / "atheris").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(PACKAGES), ATHERIS], check=True)


def fuzz(target: Target, minutes: float, plateau: float) -> dict[str, Any]:
    """Run one target; returns what it did, and the input of a finding."""
    corpus, found = BUILD / "corpus" / target.name, BUILD / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    for seed in target.seeds():
        (corpus / _name(seed)).write_bytes(seed)
    prefix, log = found / f"{target.name}-", BUILD / f"{target.name}.log"
    for old in found.glob(f"{prefix.name}*"):
        old.unlink()
    folders = [str(corpus), *map(str, [CORPORA / target.name] if (CORPORA / target.name).is_dir() else [])]
    options = (*LIMITS, f"-max_len={target.max_bytes}", f"-artifact_prefix={prefix}")
    began_at = datetime.now(UTC)
    with log.open("wb") as output, child(target, [*folders, *options], output) as process:
        progress = wait(process, target.name, log, 60 * minutes, 60 * plateau)
    text = log.read_text(errors="replace")
    return {
        "target": target.name,
        "began_at": began_at.isoformat(timespec="seconds"),
        "processor_minutes": round(progress.spent / 60, 1),
        "minutes_since_new": round((progress.spent - progress.new_at) / 60, 1),
        "executions": last(text, r"#(\d+)\t"),
        "edges": last(text, r"cov: (\d+)"),
        "features": last(text, r"ft: (\d+)"),
        "finding": None if process.returncode == INTERRUPTED else finding(process.returncode, prefix, log),
        "is_interrupted": progress.is_interrupted,
    }


def finding(status: int, prefix: Path, log: Path) -> str:
    """The input that ended a process, or the exit status of one that ended without naming an input."""
    inputs = sorted(prefix.parent.glob(f"{prefix.name}*"))
    return str(inputs[0]) if inputs else f"status {status}; see {log}"


def child(target: Target, options: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """The process of one target."""
    paths = [str(PACKAGES), os.environ.get("PYTHONPATH", ""), str(Path.cwd())]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if MEMORY.is_dir():  # for targets that write folders: most of their time went into the journal of a disk
        environment["TMPDIR"] = str(MEMORY)
    command = [sys.executable, "-m", "tests.fuzz.child", target.run.__module__, target.name, *options]
    return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


@dataclass(slots=True)
class Progress:
    """Seconds of processor time: those spent, and those until the latest new feature."""

    spent: float = 0.0
    new_at: float = 0.0
    features: int = 0
    is_interrupted: bool = False

    def update(self, pid: int, text: str) -> None:
        self.spent = processor_seconds(pid)
        if (reached := last(text, r"ft: (\d+)")) > self.features:
            self.features, self.new_at = reached, self.spent


def wait(process: subprocess.Popen[bytes], name: str, log: Path, limit: float, plateau: float) -> Progress:
    """Wait until the process ends, and end it at its limits, or when this process is interrupted."""
    progress = Progress()
    try:
        while process.poll() is None:
            progress.update(process.pid, log.read_text(errors="replace"))
            show(name, progress, limit)
            if progress.spent >= limit or progress.spent - progress.new_at >= plateau:
                process.send_signal(signal.SIGTERM)
                process.wait()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.wait()
        progress.is_interrupted = True
    return progress


def show(name: str, progress: Progress, limit: float) -> None:
    """Draw the progress in the last line of a terminal."""
    if sys.stderr.isatty():
        spent, of, new = (f"{seconds / 60:.0f}" for seconds in (progress.spent, limit, progress.new_at))
        text = f"{name}: {spent} of {of} min, {progress.features} features, the latest at {new} min"
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def processor_seconds(pid: int) -> float:
    """Of a process, by Linux' proc(5): fields 14 and 15, after the name in brackets."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    write_durably(REPORT, json.dumps([*runs, run], indent=1) + "\n")


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
