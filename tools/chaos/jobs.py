"""Fine-tuning jobs on a small datanet of the market's own, and an adapter from the first of them."""

from __future__ import annotations

import sys
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from backend.cli.actor import CONTRIBUTOR, CREATOR
from backend.cli.operator.demo import actions
from backend.cli.operator.demo.questions import Answer, Question
from backend.cli.snapshots import freeze
from backend.client.payments import deposit
from backend.client.registries import create_datanet
from backend.domain.errors import DomainError
from backend.domain.money import AMOUNT
from backend.services.contribute.docstrings import build_dataset
from tools.chaos.errors import ChaosError
from tools.chaos.traffic import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.client.api import ApiClient

DEPOSIT_UNITS = 5_000_000
PACKAGE, NUM_ROWS = "requests", 6
HYPERPARAMETERS: dict[str, Any] = {
    "rank": 4,
    "alpha": 8,
    "steps": 4,
    "batch_size": 2,
    "max_length": 384,
    "checkpoint_steps": 2,
}
START_SECONDS = 60.0
JOB_SECONDS = 600.0
"""Time in which a job must end once no fault is left: a lost lease alone takes 30 s."""


class Jobs:
    """Starts jobs of one creator, who must pay for each exactly once."""

    def __init__(self, client: Callable[[int], ApiClient]) -> None:
        self._pending: list[str] = []
        self.refusals: Counter[str] = Counter()
        """Requests for jobs that failed, by what the client saw."""
        self.bills: list[Answer] = []
        """Of the jobs that have succeeded."""
        self._creator = client(CREATOR)
        self.account = self._creator.wallet.account
        self.channel = deposit(self._creator, DEPOSIT_UNITS)
        datanet = create_datanet(self._creator, "chaos", "Docstrings, for jobs under faults.")
        data = build_dataset(PACKAGE, NUM_ROWS)
        with client(CONTRIBUTOR) as contributor:
            upload = actions.contribute(contributor, datanet, PACKAGE, data.licence, data.lines())
            actions.await_acceptance(contributor, upload)
        self._snapshot = freeze(self._creator, datanet)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._creator.close()

    @property
    def is_pending(self) -> bool:
        return bool(self._pending)

    def publish(self, name: str) -> str:
        """Train an adapter and register it; returns its model's name. Errors: `ChaosError`."""
        self.start()
        (job,) = self.finish()
        return actions.register(self._creator, name, job).model

    def start(self) -> None:
        """Ask until a job is there, as a client does after a refusal. Errors: `ChaosError`."""
        body = {"snapshot_id": self._snapshot, "hyperparameters": HYPERPARAMETERS}
        once = {"Idempotency-Key": str(uuid.uuid4())}
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                job = self._creator.request("POST", "/v1/fine_tuning/jobs", json=body, headers=once)
            except DomainError as error:
                self.refusals[f"{reason_of(error)} for a job"] += 1
                print(f"a job was refused: {error}", file=sys.stderr, flush=True)
                if time.monotonic() > deadline:
                    raise ChaosError(f"no job within {START_SECONDS:g} s: {error}") from error
                time.sleep(1)
            else:
                self._pending.append(str(job["id"]))
                return

    @property
    def num_trainings(self) -> int:
        """How often the training of the oldest pending job was begun; 0 while the API does not answer."""
        try:
            events = self._creator.get(f"/v1/fine_tuning/jobs/{self._pending[0]}/events", limit=500)["data"]
        except DomainError:
            return 0
        return sum(each["kind"] == "state" and each["data"].get("step") == "train" for each in events)

    def finish(self) -> list[dict[str, Any]]:
        """Wait until all jobs have succeeded; returns them as the API shows them. Errors: `ChaosError`."""
        jobs, deadline = [], time.monotonic() + JOB_SECONDS
        while self._pending:
            job = self._state(self._pending[0])
            if job.get("status") == "succeeded" and job["cid"]:
                paid = job["payment"]
                question = Question(job["model"], job["id"])
                self.bills.append(Answer(question, "", paid["receipt_id"], AMOUNT.read(paid["charge"])))
                del self._pending[0]
                jobs.append(job)
            elif job.get("status") in {"failed", "cancelled"}:
                raise ChaosError(f"job {job['id']} {job['status']}: {job['error']}")
            elif time.monotonic() > deadline:
                raise ChaosError(f"job {self._pending[0]} did not end within {JOB_SECONDS:g} s: {job}")
            else:
                time.sleep(1)
        return jobs

    def _state(self, job_id: str) -> dict[str, Any]:
        """The job as the API shows it; empty while it does not answer."""
        try:
            job: dict[str, Any] = self._creator.get(f"/v1/fine_tuning/jobs/{job_id}")
        except DomainError:
            return {}
        return job
