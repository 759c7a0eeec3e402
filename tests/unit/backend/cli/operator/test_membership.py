from __future__ import annotations

import pytest

from backend.cli.operator import membership
from backend.domain.errors import Conflict, Unavailable
from backend.domain.transactions import TransactionState
from tests.support.membership import MINED, FakeInstallation, typed


def test_joining_lists_queued_transactions_and_with_wait_their_end(installation: FakeInstallation) -> None:
    queued = ["transaction 1, Registry.stake, is queued", "transaction 2, Registry.addReceiptKey, is queued"]
    assert typed("join", "--stake", "1000.5").stdout.splitlines() == queued
    assert installation.asked[-1] == ("join", 1_000_500_000)
    waited = typed("join", "--stake", "1", "--wait")
    assert waited.exit_code == 0
    assert waited.stdout.splitlines()[2:] == [
        f"transaction 3, Registry.stake, is confirmed: {MINED}",
        f"transaction 4, Registry.addReceiptKey, is confirmed: {MINED}",
    ]


def test_joining_again_has_nothing_to_do(installation: FakeInstallation) -> None:
    installation.queues = []
    for more in ([], ["--wait"]):
        assert typed("join", "--stake", "1", *more).stdout == "nothing to do\n"


def test_waiting_for_a_failed_transaction_shows_the_reason(installation: FakeInstallation) -> None:
    installation.ends_as = TransactionState.FAILED
    for command in (
        ["join", "--stake", "1"],
        ["unstake", "1"],
        ["withdraw"],
        ["base", "--prices", "1", "0.000002"],
    ):
        failed = typed(*command, "--wait").exception
        assert isinstance(failed, Conflict)
        assert "Registry.stake, failed: it reverted" in str(failed)


def test_waiting_without_a_sender_asks_to_start_it(
    installation: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "CONFIRMED_SECONDS", 0)
    installation.ends_as = TransactionState.SENT
    waited = typed("join", "--stake", "1", "--wait").exception
    assert isinstance(waited, Unavailable)
    assert "check that `loraledger send` is running" in str(waited)


@pytest.mark.parametrize(
    "command",
    [["join", "--stake", "1"], ["unstake", "1"], ["withdraw"], ["base", "--prices", "1", "0.000002"]],
)
def test_a_services_refusal_is_the_commands_error(installation: FakeInstallation, command: list[str]) -> None:
    installation.refusal = Conflict("Send it the network's coin.")
    refused = typed(*command)
    assert refused.exit_code == 1
    assert refused.exception is installation.refusal
    assert "is queued" not in refused.output


@pytest.mark.parametrize(
    "command",
    [
        *(["join", "--stake", "1e3"], ["join", "--stake", "0.0000001"], ["join"]),
        *(["unstake", "-1"], ["unstake", "1,5"], ["base", "--prices", "1"]),
    ],
)
def test_invalid_arguments_are_wrong_usage(installation: FakeInstallation, command: list[str]) -> None:
    assert typed(*command).exit_code == 2
    assert installation.asked == []
