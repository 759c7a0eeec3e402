from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Unauthenticated
from backend.services.accounts.sessions import RefreshTokenReused, Sessions, Tokens
from tests.support.fakes import FakeClock
from tests.support.market import some_account

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

ACCOUNT = some_account("wallet")
ACCESS_SECONDS, RETRY_SECONDS = 15 * 60, 60


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sessions(database: Database, clock: FakeClock) -> Sessions:
    return Sessions(database, clock)


@pytest.fixture
def first(database: Database, sessions: Sessions) -> Tokens:
    with database.begin() as tx:
        return sessions.open(tx, ACCOUNT)


def is_open(sessions: Sessions, access: str) -> bool:
    try:
        return sessions.of(access).account == ACCOUNT
    except Unauthenticated:
        return False


def test_neither_token_is_stored_before_nor_after_a_refresh(
    database: Database, sessions: Sessions, first: Tokens
) -> None:
    second = sessions.refresh(first.refresh)
    with database.engine.connect() as connection:
        row = " ".join(map(str, connection.exec_driver_sql("select * from sessions").one()))
    secrets = {first.access, second.access, first.refresh, second.refresh}
    assert not [token for token in secrets if token.split("_")[-1] in row]


def test_an_access_token_ends_with_its_time(sessions: Sessions, first: Tokens, clock: FakeClock) -> None:
    clock.pass_seconds(ACCESS_SECONDS - 1)
    assert is_open(sessions, first.access)
    clock.pass_seconds(1)
    assert not is_open(sessions, first.access)


def test_a_refresh_gets_new_tokens_and_ends_the_old_access_token(
    sessions: Sessions, first: Tokens, clock: FakeClock
) -> None:
    clock.pass_seconds(ACCESS_SECONDS)
    second = sessions.refresh(first.refresh)
    assert not {second.access, second.refresh} & {first.access, first.refresh}
    assert is_open(sessions, second.access)
    assert not is_open(sessions, first.access)
    third = sessions.refresh(second.refresh)
    assert is_open(sessions, third.access)


def test_a_lost_response_is_repeated(sessions: Sessions, first: Tokens, clock: FakeClock) -> None:
    """The process dies between the commit and the answer: the client asks with the token that it has."""
    lost = sessions.refresh(first.refresh)
    clock.pass_seconds(RETRY_SECONDS - 1)
    assert sessions.refresh(first.refresh) == lost
    assert is_open(sessions, sessions.refresh(lost.refresh).access)


def test_a_crash_before_the_commit_leaves_the_token_good(
    database: Database, sessions: Sessions, first: Tokens
) -> None:
    class Dies(Exception):
        pass

    class Dying(Sessions):
        def _next_tokens(self, *args: object) -> Tokens:
            raise Dies

    with pytest.raises(Dies):
        Dying(database, FakeClock()).refresh(first.refresh)
    assert is_open(sessions, first.access)
    assert is_open(sessions, sessions.refresh(first.refresh).access)


def test_two_at_once_get_the_same_answer(sessions: Sessions, first: Tokens) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(sessions.refresh, [first.refresh] * 4))
    assert len({(each.access, each.refresh) for each in answers}) == 1


def test_a_token_that_is_used_later_again_ends_the_session(
    sessions: Sessions, first: Tokens, clock: FakeClock
) -> None:
    second = sessions.refresh(first.refresh)
    clock.pass_seconds(RETRY_SECONDS)
    with pytest.raises(RefreshTokenReused, match="Sign in again"):
        sessions.refresh(first.refresh)
    assert not is_open(sessions, second.access)
    with pytest.raises(Unauthenticated, match="used twice"):
        sessions.refresh(second.refresh)


def test_a_token_whose_successor_was_used_is_spent_at_once(sessions: Sessions, first: Tokens) -> None:
    third = sessions.refresh(sessions.refresh(first.refresh).refresh)
    with pytest.raises(RefreshTokenReused):
        sessions.refresh(first.refresh)
    assert not is_open(sessions, third.access)


def test_a_session_ends_with_its_time_however_often_it_is_refreshed(
    sessions: Sessions, first: Tokens, clock: FakeClock
) -> None:
    clock.pass_seconds(30 * 86_400 - 1)
    second = sessions.refresh(first.refresh)
    assert is_open(sessions, second.access)
    clock.pass_seconds(1)
    assert not is_open(sessions, second.access)
    with pytest.raises(Unauthenticated, match="it expired"):
        sessions.refresh(second.refresh)


def test_signing_out_ends_both_tokens_and_no_other_session(
    database: Database, sessions: Sessions, first: Tokens
) -> None:
    with database.begin() as tx:
        other = sessions.open(tx, ACCOUNT)
    sessions.end(first.access)
    sessions.end(first.access)
    assert not is_open(sessions, first.access)
    with pytest.raises(Unauthenticated, match="signed out"):
        sessions.refresh(first.refresh)
    assert is_open(sessions, other.access)


@pytest.mark.parametrize(
    "token", ["", "llr_", "llr_x_y", "llk_key", "llr_" + "0" * 32 + "_" + "0" * 64, "\x00"]
)
def test_an_invalid_refresh_token_is_refused_without_waiting_for_a_writer(
    database: Database, sessions: Sessions, first: Tokens, token: str
) -> None:
    with database.begin() as tx:
        sessions.open(tx, some_account("writer"))
        with pytest.raises(Unauthenticated, match="Sign in again"):
            sessions.refresh(token)
    assert is_open(sessions, first.access)


def test_sessions_that_are_over_are_forgotten(
    database: Database, sessions: Sessions, clock: FakeClock
) -> None:
    for _ in range(3):
        with database.begin() as tx:
            sessions.open(tx, ACCOUNT)
        clock.pass_seconds(30 * 86_400)
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("select count(*) from sessions").scalar_one() == 1
