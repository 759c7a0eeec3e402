"""Mutates the contracts that handle payments and fails if the Solidity tests kill less than 90 % of mutants.

It draws 200 mutants with a fixed seed, distributed over the sources by size. A mutant that does not compile,
or compiles to the same code, is replaced by the next of its file. Results are stored under build/, so that an
interrupted run resumes until a contract or a test changes. Each survivor needs an entry with a reason in
survivors.json: {"file", "function", "change", "reason"}.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tools.contract_checks.common import BUILD, HERE, NODE, ROOT, Clock, compile_contracts, fail
from tools.contract_checks.mutants import Mutant, Mutator, quotas, shuffled

LEAST = 0.9
TOTAL = 200
SEED = 1
# Seconds after which a mutant counts as killed: it loops without running out of gas.
TIMEOUT_SECONDS = 900
FOLDER = BUILD / "mutation"
SURVIVORS = HERE / "survivors.json"
# All of contracts/ is mutated except these paths, with the reason.
EXCLUDED = {
    "contracts/interfaces/": "declarations",
    "contracts/local/": "of the local chain, never deployed elsewhere",
    "contracts/MarketToken.sol": "OpenZeppelin's votes token; holds no deposits",
    "contracts/MarketGovernor.sol": "OpenZeppelin's governor; holds no deposits",
    "contracts/AdapterRegistry.sol": "holds no deposits",
    "contracts/DatasetRegistry.sol": "holds no deposits",
    "contracts/Parameters.sol": "holds no deposits",
    "contracts/Generation.sol": "only a constructor",
    "contracts/libraries/Profiles.sol": "constants that tests would have to repeat",
    "contracts/libraries/Roles.sol": "two constants",
}


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of a mutant: killed, survived, invalid (it does not compile) or same (its code is equal)."""

    key: str
    file: str
    function: str
    line: int
    operator: str
    change: str
    outcome: str
    by: str | None
    seconds: float

    @property
    def counts(self) -> bool:
        return self.outcome in ("killed", "survived")


class Worker:
    """A process that tests mutants; see mutant_runner.mjs."""

    def __init__(self, *, is_first: bool) -> None:
        self._arguments = [str(NODE), str(HERE / "mutant_runner.mjs"), *([] if is_first else ["--trust"])]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        greeting = json.loads(_line(process) or '{"outcome": "ended"}')
        if greeting["outcome"] != "passed":
            fail(f"mutation: the unchanged contracts do not pass: {greeting.get('by', 'the runner exited')}")
        return process

    def test(self, file: str, text: str, tests: list[str]) -> dict[str, Any]:
        assert self._process.stdin is not None  # noqa: S101  # for the type checker
        self._process.stdin.write(json.dumps({"file": file, "text": text, "tests": tests}) + "\n")
        self._process.stdin.flush()
        timer = threading.Timer(TIMEOUT_SECONDS, self._process.kill)
        timer.start()
        line = _line(self._process)
        timer.cancel()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._arguments = [*self._arguments[:2], "--trust"]
        self._process = self._start()
        return {
            "outcome": "killed",
            "by": f"timed out after {TIMEOUT_SECONDS} s",
            "seconds": float(TIMEOUT_SECONDS),
        }

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None  # noqa: S101  # for the type checker
    return process.stdout.readline()


@dataclass(slots=True)
class Queue:
    """The mutants of one file, tested in order until enough of them count."""

    source: bytes
    mutants: list[Mutant]
    wanted: int
    next: int = 0
    running: int = 0
    counted: int = 0

    def next_mutant(self) -> Mutant | None:
        if self.counted + self.running >= self.wanted or self.next == len(self.mutants):
            return None
        self.next += 1
        self.running += 1
        return self.mutants[self.next - 1]

    def record(self, result: Result) -> None:
        self.running -= 1
        self.counted += result.counts


class Store:
    """Stores the results on disk, separately for each state of the sources."""

    def __init__(self, state: str, seed: int) -> None:
        self._path = FOLDER / f"results-{seed}-{state}.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._results = {each["key"]: Result(**each) for each in map(json.loads, lines)}

    def get(self, mutant: Mutant) -> Result | None:
        return self._results.get(mutant.key)

    def put(self, result: Result) -> None:
        self._results[result.key] = result
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")


@dataclass(slots=True)
class Names:
    """Orders test files by the likelihood that they detect a change of a function.

    Files that name the function or its callers, and files that killed mutants of the same file, come first.
    """

    uses: list[tuple[str, str]]
    texts: dict[str, str]
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)

    def order(self, mutant: Mutant) -> list[str]:
        """Return all test files, the most likely first."""
        names = self._callers_of(mutant.function) | {Path(mutant.file).stem}
        score: dict[str, float] = defaultdict(float)
        for name in names:
            naming = {file: len(re.findall(rf"\b{name}\b", text)) for file, text in self.texts.items()}
            files = [file for file, count in naming.items() if count]
            for file in files:
                score[file] += min(naming[file], 5) / len(files) ** 2
        for file in self.texts:
            score[file] += self.kills[mutant.file, file] / 4
        return sorted(self.texts, key=lambda file: (-score[file], file))

    def _callers_of(self, function: str) -> set[str]:
        reached = {function}
        while more := {name for name, used in self.uses if used in reached} - reached:
            reached |= more
        return {name.lstrip("_") for name in reached if name}


def _uses(node: Any, function: str) -> list[tuple[str, str]]:
    """Return pairs of a function and a name that it uses."""
    if isinstance(node, list):
        return [pair for each in node for pair in _uses(each, function)]
    if not isinstance(node, dict):
        return []
    if node.get("nodeType") == "FunctionDefinition":
        function = node["name"]
    used = node.get("memberName") or (node.get("name") if node.get("nodeType") == "Identifier" else None)
    own = [(function, used)] if used and function else []
    return own + [pair for value in node.values() for pair in _uses(value, function)]


def targets() -> list[str]:
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "contracts").rglob("*.sol"))
    return [file for file in files if not file.startswith(tuple(EXCLUDED))]


def _state() -> str:
    """Return a digest of all files that affect the outcome of a mutant."""
    folders = ("contracts", "tests/contracts", "tests/vectors")
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    paths += [HERE / "mutants.py", HERE / "mutant_runner.mjs", HERE / "solc.mjs", ROOT / "package-lock.json"]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _code_lines(source: bytes) -> int:
    lines = (line.strip() for line in source.decode().splitlines())
    return sum(1 for line in lines if line and not line.startswith(("//", "import ", "}")))


def queues(trees: dict[str, Any], total: int, seed: int) -> dict[str, Queue]:
    sources = {file: (ROOT / file).read_bytes() for file in targets()}
    wanted = quotas({file: _code_lines(source) for file, source in sources.items()}, total)
    return {
        file: Queue(source, shuffled(Mutator(file, source).mutants(trees[file]), seed), wanted[file])
        for file, source in sources.items()
    }


class Run:
    """Tests the mutants of all queues with several workers."""

    def __init__(self, waiting: dict[str, Queue], store: Store, names: Names) -> None:
        self._queues = waiting
        self._store = store
        self._names = names
        self._idle: list[Worker] = []
        self._num_workers = 0
        self._lock = threading.Lock()
        self.results: list[Result] = []

    def __call__(self, jobs: int) -> list[Result]:
        running: set[Future[Result]] = set()
        with ThreadPoolExecutor(jobs) as pool:
            try:
                while running or self._is_left():
                    while len(running) < jobs and (mutant := self._take()) is not None:
                        running.add(pool.submit(self._try, mutant))
                    (done, running) = wait(running, return_when=FIRST_COMPLETED)
                    for each in done:
                        self._record(each.result(), is_new=True)
            finally:
                for worker in self._idle:
                    worker.stop()
        return self.results

    def _is_left(self) -> bool:
        return any(
            queue.counted < queue.wanted and queue.next < len(queue.mutants)
            for queue in self._queues.values()
        )

    def _take(self) -> Mutant | None:
        """Return the next mutant without a stored result, and record the stored results before it."""
        for queue in self._queues.values():
            while (mutant := queue.next_mutant()) is not None:
                known = self._store.get(mutant)
                if known is None:
                    return mutant
                self._record(known, is_new=False)
        return None

    def _try(self, mutant: Mutant) -> Result:
        with self._lock:
            worker = self._idle.pop() if self._idle else self._start_worker()
            tests = self._names.order(mutant)
        source = self._queues[mutant.file].source
        answer = worker.test(mutant.file, mutant.apply(source), tests)
        with self._lock:
            self._idle.append(worker)
        change = f"{_flat(mutant.before)} -> {_flat(mutant.after)}"
        place = (mutant.key, mutant.file, mutant.function, mutant.line(source), mutant.operator, change)
        return Result(*place, answer["outcome"], answer["by"], answer["seconds"])

    def _start_worker(self) -> Worker:
        self._num_workers += 1
        return Worker(is_first=self._num_workers == 1)

    def _record(self, result: Result, *, is_new: bool) -> None:
        if result.outcome == "error":
            fail(f"mutation: the runner failed at {result.file}:{result.line}: {result.by}")
        self._queues[result.file].record(result)
        self.results.append(result)
        if result.outcome == "killed" and result.by is not None:
            self._names.kills[result.file, result.by.split(":")[0]] += 1
        if is_new:
            self._store.put(result)
            counted = sum(each.counts for each in self.results)
            wanted = sum(queue.wanted for queue in self._queues.values())
            what = f"{result.file}:{result.line} {result.operator}: {result.change}"
            text = f"{counted}/{wanted} {result.outcome} {what[:140]} ({result.seconds:.0f} s)"
            print(text, file=sys.stderr, flush=True)


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def explained(survivors: list[Result]) -> dict[str, str]:
    """Return the reasons of the survivors that survivors.json lists."""
    reasons = {
        (each["file"], each["function"], each["change"]): each["reason"]
        for each in json.loads(SURVIVORS.read_text())
    }
    keys = {each.key: (each.file, each.function, each.change) for each in survivors}
    return {key: reasons[place] for key, place in keys.items() if reasons.get(place, "").strip()}


def report(results: list[Result], seed: int) -> dict[str, Any]:
    counts = Counter(each.outcome for each in results)
    survivors = [each for each in results if each.outcome == "survived"]
    reasons = explained(survivors)
    tried = counts["killed"] + counts["survived"]
    return {
        "seed": seed,
        "mutants": tried,
        "killed": counts["killed"],
        "survived": counts["survived"],
        "not_compilable": counts["invalid"],
        "same_code": counts["same"],
        "killed_part": round(counts["killed"] / tried, 4) if tried else 0.0,
        "by_file": {
            file: dict(Counter(each.outcome for each in results if each.file == file))
            for file in sorted({each.file for each in results})
        },
        "survivors": [
            {
                "place": f"{each.file}:{each.line}",
                "function": each.function,
                "operator": each.operator,
                "change": each.change,
                "reason": reasons.get(each.key),
            }
            for each in sorted(survivors, key=lambda each: (each.file, each.line))
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=TOTAL, help=f"number of mutants (default: {TOTAL})")
    parser.add_argument(
        "--jobs", type=int, default=1, help="number of parallel processes, about 1 GiB of memory each"
    )
    parser.add_argument("--seed", type=int, default=SEED, help=f"seed of the selection (default: {SEED})")
    arguments = parser.parse_args()
    clock = Clock()
    compile_contracts("ast", FOLDER / "trees", "contracts")
    trees = json.loads((FOLDER / "trees" / "trees.json").read_text())
    texts = {
        str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests/contracts").glob("*.t.sol")
    }
    uses = [pair for file in trees if file.startswith("contracts/") for pair in _uses(trees[file], "")]
    names = Names(uses, texts)
    run = Run(queues(trees, arguments.limit, arguments.seed), Store(_state(), arguments.seed), names)
    summary = report(run(arguments.jobs), arguments.seed)
    print(json.dumps(summary, indent=2))
    print(f"mutation: {summary['killed']} of {summary['mutants']} killed, {clock}", file=sys.stderr)
    unexplained = [each["place"] for each in summary["survivors"] if each["reason"] is None]
    if summary["killed_part"] < LEAST:
        fail(f"mutation: {summary['killed_part']:.1%} killed, below {LEAST:.0%}")
    if unexplained:
        fail(f"mutation: survivors without a reason in {SURVIVORS.name}: {', '.join(unexplained)}")


if __name__ == "__main__":
    main()
