from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.deployment.journal import Journal, Origin, Step, exclusive
from backend.domain.errors import Conflict, InvalidInput
from backend.domain.ids import Account, Hash32

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = Origin(1, Hash32("0x" + "ab" * 32), Account("0x" + "12" * 20))
DIGEST = Hash32("0x" + "01" * 32)
STEP = Step("PaymentVault.constructor", DIGEST, nonce=7, gas=1, max_fee=2, raw="0x02", hashes=(DIGEST,))


def test_a_recorded_step_is_replayed_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "1.journal.json"
    first = Journal(ORIGIN, path)
    assert first.replay(STEP.call, DIGEST) is None
    first.append(STEP)
    again = Journal(ORIGIN, path)
    assert (again.position, again.next_nonce) == (0, 7)
    assert again.replay(STEP.call, DIGEST) == STEP
    assert (again.position, again.next_nonce) == (1, None)
    assert again.replay("Parameters.constructor", DIGEST) is None


def test_a_replacement_takes_the_place_of_its_step(tmp_path: Path) -> None:
    path = tmp_path / "1.journal.json"
    journal = Journal(ORIGIN, path)
    journal.append(STEP)
    dearer = replace(STEP, max_fee=3)
    journal.replace(STEP, dearer)
    assert Journal(ORIGIN, path).steps == (dearer,)


@pytest.mark.parametrize(("call", "digest"), [("Parameters.constructor", DIGEST), (STEP.call, "0x02")])
def test_another_step_than_the_recorded_one_is_refused(tmp_path: Path, call: str, digest: Hash32) -> None:
    path = tmp_path / "1.journal.json"
    Journal(ORIGIN, path).append(STEP)
    with pytest.raises(Conflict, match=r"step 1 of .* is PaymentVault\.constructor"):
        Journal(ORIGIN, path).replay(call, digest)


@pytest.mark.parametrize(
    "other", [{"chain_id": 2}, {"genesis": "0x" + "cd" * 32}, {"deployer": "0x" + "34" * 20}]
)
def test_the_journal_of_another_deployment_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    path = tmp_path / "1.journal.json"
    Journal(ORIGIN, path).append(STEP)
    with pytest.raises(Conflict, match="belongs to another deployment"):
        Journal(replace(ORIGIN, **other), path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"origin": {}, "steps": []}'])
def test_a_broken_journal_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "1.journal.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match="is not a deployment's journal"):
        Journal(ORIGIN, path)


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "deployments"
    with exclusive(folder), pytest.raises(Conflict, match="is running"), exclusive(folder):
        pass
    with exclusive(folder):
        pass
    assert list(folder.iterdir()) == []
