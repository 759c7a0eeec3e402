"""How a job's training goes: its losses by step, its pace, and what happened besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.training import JobEvent

MAX_POINTS = 300
MILESTONES = frozenset(
    {"state", "dataset", "retry", "failed", "screening", "published", "charged", "registered"}
)
"""Kinds of events that are few in each job."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Losses are nats per token, as (step, loss) by rising step. Of the training losses about `MAX_POINTS`
    are kept; held-out losses begin with the base model's at step 0.

    `milestones`: events of the kinds in `MILESTONES`, in order. The pace is None before the first step.
    `working`: the newest `working` event that no step follows.
    """

    train: tuple[tuple[int, float], ...]
    held_out: tuple[tuple[int, float], ...]
    step: int
    num_steps: int
    tokens_per_second: float | None
    eta_seconds: float | None
    milestones: tuple[JobEvent, ...]
    working: JobEvent | None


def read_progress(tx: UnitOfWork, job_id: str) -> Progress:
    """Of an existing job. A step that a killed worker had done counts once, as its successor did it."""
    steps = tx.training.sampled_events(job_id, "progress", MAX_POINTS)
    newest = steps[-1].data if steps else {}
    working = tx.training.sampled_events(job_id, "working", 1)[-1:]
    is_past = bool(working and steps) and steps[-1].seq > working[0].seq
    num_steps = int(newest.get("num_steps", 0))
    return Progress(
        train=_by_step((int(one.data["step"]), float(one.data["loss"])) for one in steps),
        held_out=_held_out(tx.training.events(job_id, 0, None, {"eval"}), num_steps),
        step=int(newest.get("step", 0)),
        num_steps=num_steps,
        tokens_per_second=newest.get("tokens_per_second"),
        eta_seconds=newest.get("eta_seconds"),
        milestones=tuple(tx.training.events(job_id, 0, None, MILESTONES)),
        working=working[0] if working and not is_past else None,
    )


def _held_out(evaluations: Iterable[JobEvent], num_steps: int) -> tuple[tuple[int, float], ...]:
    """The trained adapter stands at the last step, whichever step's weights were kept."""
    places = {"base": 0, "adapter": num_steps}
    found = []
    for one in evaluations:
        model = str(one.data["model"])
        step = int(model.removeprefix("step-")) if model.startswith("step-") else places.get(model)
        if step is not None:
            found.append((step, float(one.data["loss"])))
    return _by_step(found)


def _by_step(points: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted(dict(points).items()))
