"""What retraining found about a study: the answers, and their losses under each run.

It is the costly part of a study and small enough to commit, so that methods can be evaluated, and a study
continued, on another machine. The file is JSON with one answer or run a line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from backend.disk.files import write_durably
from backend.domain.errors import InvalidInput
from benchmarks.attribution.retrain import Run
from workers.training.folders import lock_folder
from workers.training.rows import IGNORED, Example

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

Kind = Literal["generated", "held-out", "in-sample"]
KINDS: tuple[Kind, ...] = ("generated", "held-out", "in-sample")
NUM_DECIMALS = 3
"""Of a loss in nats; another seed changes it by tenths."""


class OtherStudy(InvalidInput):
    """A file has the retrainings of other texts, another base model or other contributors."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`contributor` is the one whose topic the prompt has. `seed` is that of a sampled answer; None for a
    greedy or a written one.
    """

    kind: Kind
    contributor: int
    seed: int | None
    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def example(self) -> Example:
        """The answer as a row, with loss on the answer alone."""
        labels = (*(IGNORED for _ in self.prompt), *self.answer)
        return Example(self.contributor, "", (*self.prompt, *self.answer), labels)


@dataclass(frozen=True)
class Truth:
    """`losses` has the loss of each answer in nats, summed over its tokens, by run."""

    study: str
    base_model: str
    answers: tuple[Answer, ...]
    losses: dict[Run, tuple[float, ...]] = field(default_factory=dict)


def read_truth(path: Path, study: str, base_model: str) -> Truth | None:
    """None without a file. Errors: `OtherStudy`."""
    if not path.exists():
        return None
    found = json.loads(path.read_bytes())
    require_study(found, path, study, base_model)
    answers = tuple(
        Answer(kind, place, seed, tuple(prompt), tuple(answer))
        for kind, place, seed, prompt, answer in found["answers"]
    )
    losses = {Run(tuple(who), seed): tuple(values) for who, seed, values in found["runs"]}
    return Truth(study, base_model, answers, losses)


def require_study(found: Mapping[str, Any], path: Path, study: str, base_model: str) -> None:
    """Errors: `OtherStudy` if what `path` has is not of the study and base model."""
    for name, value in (("study", study), ("base_model", base_model)):
        if found[name] != value:
            raise OtherStudy(
                f"{path} has the retrainings of another study: its {name} is {found[name]}, not {value}. "
                "Install the package versions of requirements.lock and the same base model, or name another "
                "folder with --truth"
            )


def add_runs(path: Path, truth: Truth, runs: Mapping[Run, Sequence[float]] = MappingProxyType({})) -> Truth:
    """Store the losses of runs with those that other processes have stored by now; return them all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_folder(path.parent):
        stored = read_truth(path, truth.study, truth.base_model) or truth
        if stored.answers != truth.answers:
            raise OtherStudy(f"{path} has other answers than this run; start it again to use those")
        rounded = {run: tuple(round(loss, NUM_DECIMALS) for loss in losses) for run, losses in runs.items()}
        updated = Truth(truth.study, truth.base_model, truth.answers, {**stored.losses, **rounded})
        _write(path, updated)
    return updated


def _write(path: Path, truth: Truth) -> None:
    answers = [[a.kind, a.contributor, a.seed, a.prompt, a.answer] for a in truth.answers]
    runs = [[run.contributors, run.seed, losses] for run, losses in sorted(truth.losses.items(), key=_order)]
    text = (
        f'{{"study": {json.dumps(truth.study)},\n"base_model": {json.dumps(truth.base_model)},\n'
        f'"answers": {_lines(answers)},\n"runs": {_lines(runs)}}}\n'
    )
    write_durably(path, text)


def _order(item: tuple[Run, Any]) -> tuple[int, tuple[int, ...]]:
    return item[0].seed, item[0].contributors


def _lines(values: Iterable[Any]) -> str:
    lines = ",\n ".join(json.dumps(value, separators=(",", ":")) for value in values)
    return f"[\n {lines}\n]"
