"""The command line's client against a real server: sessions that outlast commands and their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from backend.cli.main import app, main
from backend.client.api import ApiClient
from backend.client.comparison import SignatureRefused
from backend.client.errors import ApiError
from backend.client.sessions import SessionFile
from backend.domain.errors import Unavailable
from backend.domain.money import AMOUNT
from backend.domain.serving import NO_WAIVER, Waiver
from backend.services.channels.channels import Channels
from tests.support.terminal import act_as_payer, payer_client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.api.conftest import Api

DAY = 86_400


@pytest.fixture
def market(api: Api) -> Iterator[ApiClient]:
    with payer_client(api).sign_in() as found:
        yield found


@pytest.fixture
def kept(market: ApiClient, tmp_path: Path) -> SessionFile:
    """The session of an earlier `loraledger login`."""
    session = SessionFile(market.api_url, market.wallet.account, tmp_path)
    market.keep_session(session)
    return session


def refuse(_: object) -> None:
    pytest.fail("nothing is signed")


def test_a_session_is_refreshed_without_a_word(api: Api, market: ApiClient) -> None:
    for _ in range(3):
        api.installation.clock.pass_seconds(3600)
        assert market.get("/v1/auth/me")["account"] == market.wallet.account


def test_a_session_that_is_over_is_followed_by_another(api: Api, market: ApiClient) -> None:
    api.installation.clock.pass_seconds(31 * DAY)
    assert market.post("/v1/withdrawals/prepare")["decoded"]["function"] == "withdraw"


def test_rows_that_are_read_once_are_not_sent_again(api: Api, market: ApiClient) -> None:
    api.installation.clock.pass_seconds(3600)
    with pytest.raises(ApiError, match="refresh it or sign in again"):
        market.request("POST", "/v1/contributions", content=iter([b"rows"]))


def test_a_kept_session_needs_no_signature(api: Api, kept: SessionFile, tmp_path: Path) -> None:
    for _ in range(2):
        with payer_client(api, refuse).resume(kept) as client:
            assert client.get("/v1/auth/me")["account"] == client.wallet.account
        api.installation.clock.pass_seconds(3600)
    [file] = tmp_path.glob("*/*.json")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_commands_that_share_a_kept_session_do_not_end_it(api: Api, kept: SessionFile) -> None:
    with payer_client(api, refuse).resume(kept) as long, payer_client(api, refuse).resume(kept) as short:
        for _ in range(2):
            api.installation.clock.pass_seconds(3600)
            for client in (short, long):
                assert client.get("/v1/auth/me")["account"] == client.wallet.account
        api.installation.clock.pass_seconds(3600)
        assert short.get("/v1/auth/me")
        api.installation.clock.pass_seconds(3600)  # also what the other command has kept has expired
        assert long.get("/v1/auth/me")


def test_streams_and_downloads_renew_an_expired_session(api: Api, market: ApiClient) -> None:
    asked = {"model": api.installation.version, "messages": [{"role": "user", "content": "hi"}]}
    api.installation.clock.pass_seconds(3600)
    *_, last = market.stream("/v1/chat/completions", asked | {"stream": True})
    assert last["loraledger"]["receipt_id"]
    api.installation.clock.pass_seconds(3600)
    with market.download("/v1/auth/me", 10_000) as chunks:
        assert market.wallet.account.encode() in b"".join(chunks)


def test_a_kept_session_that_is_over_is_replaced_with_notice(api: Api, kept: SessionFile) -> None:
    before = kept.load()
    api.installation.clock.pass_seconds(31 * DAY)
    said: list[str] = []
    client = payer_client(api)
    client._notice = said.append
    with client.resume(kept):
        assert client.get("/v1/auth/me")
    assert said == [f"the session at {api.url} has ended; signing in again"]
    assert kept.load() not in (None, before)


def test_without_a_login_no_session_is_kept(api: Api, tmp_path: Path) -> None:
    session = SessionFile(api.url, api.installation.payer.account, tmp_path)
    with payer_client(api).resume(session) as client:
        assert client.get("/v1/auth/me")
    assert session.load() is None


def test_logout_ends_the_session_at_the_market_too(api: Api, kept: SessionFile) -> None:
    tokens = kept.load()
    assert tokens is not None
    with payer_client(api, refuse) as client:
        client.sign_out(kept)
    assert kept.load() is None
    with api.http(tokens.token) as http:
        assert http.get("/v1/auth/me").status_code == 401
        body = {"refresh_token": tokens.refresh_token}
        assert http.post("/v1/auth/refresh", json=body).status_code == 401


def test_logout_without_the_market_can_be_repeated(api: Api, kept: SessionFile) -> None:
    tokens = kept.load()
    assert tokens is not None
    away = ApiClient("http://127.0.0.1:1", payer_client(api, refuse).wallet)
    with away, pytest.raises(Unavailable):
        away.sign_out(kept)
    assert kept.load() == tokens
    with payer_client(api, refuse) as client:
        client.sign_out(kept)
    assert kept.load() is None
    with api.http() as http:
        body = {"refresh_token": tokens.refresh_token}
        assert http.post("/v1/auth/refresh", json=body).status_code == 401


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"token": 1}'])
def test_a_malformed_session_file_counts_as_none(tmp_path: Path, text: str, api: Api) -> None:
    session = SessionFile(api.url, api.installation.payer.account, tmp_path)
    client = payer_client(api).sign_in()
    client.keep_session(session)
    client.__exit__()
    [file] = tmp_path.glob("*/*.json")
    file.write_text(text)
    assert session.load() is None


@pytest.mark.parametrize("way", ["--stream", "--no-stream"])
def test_an_answer_that_no_session_key_covers_is_paid_by_a_voucher(
    api: Api, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The least that it can cost is covered."""
    api.installation.fund(1000, cap=30)
    act_as_payer(api, monkeypatch)
    asked = ["chat", api.installation.version, "say hello", "--max-tokens", "16", way]
    refused = CliRunner().invoke(app, [*asked, "--max-cost", "0.000000000339"])
    assert isinstance(refused.exception, SignatureRefused)
    assert "a voucher over 0.00000000034 dollars, more than 0.000000000339 dollars" in str(refused.exception)
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.exception
    assert done.stdout == "Hello there, world.\n"
    assert done.stderr.startswith("signed a voucher for 0.00000000034 dollars in all on this channel\n0.0")
    with api.http() as http:
        found = http.get(f"/v1/channels/{api.installation.channel}").json()
    assert (found["charged"], found["cap"]) == (AMOUNT.render(100), AMOUNT.render(340))


def test_a_voucher_covers_the_least_and_then_the_most_that_an_answer_can_cost(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.installation.fund(1000, cap=0)
    act_as_payer(api, monkeypatch)
    done = CliRunner().invoke(app, ["chat", api.installation.version, "say hello", "--max-tokens", "16"])
    assert done.stdout == "Hello there, world.\n"
    first, second, _ = done.stderr.splitlines()
    assert first.startswith("signed a voucher for 0.00000000003 dollars in all")
    assert second.startswith("signed a voucher for 0.00000000034 dollars in all")


class Everything:
    def __contains__(self, _: object) -> bool:
        return True


def test_a_voucher_waives_a_convicted_answer_and_the_next_one_repeats_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier voucher, up to 340, waives nothing."""
    installation, channel = api.installation, api.installation.channel
    installation.fund(1000, cap=0)
    act_as_payer(api, monkeypatch)
    asked = ["chat", installation.version, "say hello", "--max-tokens", "16"]
    CliRunner().invoke(app, asked)
    monkeypatch.setattr(Channels, "_load_quarantined", lambda _: Everything())
    with installation.begin() as tx:
        tx.channels.demand_waivers({channel: Waiver(0, 100)})
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.exception
    assert done.stdout == "Hello there, world.\n"
    first, second, _ = done.stderr.splitlines()
    assert first.startswith("signed a voucher for 0.00000000034 dollars in all")
    assert second.startswith("signed a voucher for 0.00000000044 dollars in all")
    with installation.begin() as tx:
        tx.channels.demand_waivers({channel: NO_WAIVER})
    assert CliRunner().invoke(app, asked).exit_code == 0
    with installation.read() as tx:
        [stored] = tx.channels.vouchers(channel)
    assert (stored.signed.voucher.waived_until, stored.signed.voucher.max_cumulative) == (100, 540)


def test_a_file_that_cannot_be_written_is_named(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    act_as_payer(api, monkeypatch)
    answer = api.openai.completions.create(model="tiny", prompt="say hello", max_tokens=16)
    receipt = (answer.model_extra or {})["loraledger"]["receipt_id"]
    file = tmp_path / "missing" / "receipt.json"
    monkeypatch.setattr("sys.argv", ["loraledger", "receipts", "show", receipt, "--out", str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.endswith(f"\nerror: No such file or directory: {file}\n")


def test_a_market_that_calls_itself_otherwise_is_not_signed_in_at(api: Api) -> None:
    """The scripted installation's sign-in messages name another port."""
    client = payer_client(api, refuse)
    client._is_own = False
    with client, pytest.raises(SignatureRefused, match="asks to sign in at"):
        client.sign_in()
