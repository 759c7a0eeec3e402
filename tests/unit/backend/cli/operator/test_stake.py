from __future__ import annotations

from backend.domain.errors import InvalidInput, Unavailable
from backend.services.operator.membership import StakeLocked
from tests.support.market import some_account
from tests.support.membership import MICRO, FakeInstallation, typed


def test_unstake_with_wait_withdraws_as_soon_as_the_stake_is_unlocked(installation: FakeInstallation) -> None:
    installation.queues, installation.num_locked = ["startUnstake"], 3
    assert typed("unstake", "400").stdout == "transaction 1, Registry.startUnstake, is queued\n"
    assert installation.asked[-1] == ("unstake", 400 * MICRO)
    assert typed("unstake", "400", "--wait").exit_code == 0
    assert installation.asked[-1] == ("withdraw",)
    assert installation.num_locked == -1


def test_unstake_with_wait_outlasts_what_else_can_be_withdrawn_and_outages(
    installation: FakeInstallation,
) -> None:
    installation.queues, installation.num_locked, installation.owes = ["startUnstake"], 3, True
    installation.outages = [Unavailable("the node is away")]
    done = typed("unstake", "400", "--wait")
    assert done.exit_code == 0, done.exception
    assert installation.num_locked == -1


def test_restake_names_the_registry_and_token_units(installation: FakeInstallation) -> None:
    installation.queues, registry = ["restake"], some_account("next registry")
    done = typed("restake", "400.5", "--registry", registry)
    assert done.stdout == "transaction 1, Registry.restake, is queued\n"
    assert installation.asked == [("prepare_database",), ("restake", registry, 400_500_000)]
    assert "is confirmed" in typed("restake", "1", "--registry", registry, "--wait").stdout
    assert isinstance(typed("restake", "1", "--registry", "0x12").exception, InvalidInput)
    assert typed("restake", "1").exit_code == 2


def test_cancelling_an_unstake_does_not_wait(installation: FakeInstallation) -> None:
    assert typed("unstake", "0", "--wait").exit_code == 0
    assert installation.asked[-1] == ("unstake", 0)


def test_withdrawing_does_not_wait_for_locked_stake(installation: FakeInstallation) -> None:
    installation.num_locked = 1
    assert isinstance(typed("withdraw", "--wait").exception, StakeLocked)
    assert typed("withdraw", "--wait").exit_code == 0
    assert installation.asked[-1] == ("withdraw",)
