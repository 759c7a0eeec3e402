"""Secrets appear in no log record and in no error message."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import httpx
import pytest
from sqlalchemy.exc import SQLAlchemyError

from backend.domain.ids import ChannelId
from backend.domain.sign_in_message import personal_digest
from backend.domain.voucher import Voucher
from telemetry.logs import JsonFormatter, TextFormatter
from tests.integration.api.conftest import tokens
from tests.support.fakes import some_key
from tests.support.market import some_account, some_hash
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from tests.integration.api.conftest import Api

CLIENTS = ("httpx", "httpcore", "openai")
"""Loggers of the tests' own clients."""


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """Every record of the server with all that it carries, tracebacks included: before anything is masked,
    and as the lines that are written.
    """
    ours = [each for each in caplog.records if not each.name.startswith(CLIENTS)]
    forms = (logging.Formatter("%(name)s %(message)s %(args)s"), TextFormatter(), JsonFormatter())
    return "\n".join(form.format(each) for each in ours for form in forms)


@pytest.fixture
def loud(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """To be asked for before the database, which looks at the level when it is opened."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "sqlalchemy")  # statements; below that it would show rows
    return caplog


def test_no_log_record_holds_a_secret(loud: pytest.LogCaptureFixture, api: Api) -> None:
    payer, built = api.installation.payer, api.installation
    pair = tokens(api.url, payer)
    renewed = httpx.post(f"{api.url}/v1/auth/refresh", json={"refresh_token": pair["refresh_token"]}).json()
    session = renewed["token"]
    voucher = Voucher(built.channel, 0, 5)
    voucher_signature = payer.sign(built.vault_domain.voucher_digest(voucher))
    with api.http(session) as http:
        message = http.post("/v1/auth/challenges", json={"account": payer.account}).json()["message"]
        wrong = some_key("thief").sign(personal_digest(message))
        refused = {"message": message, "signature": wrong}
        assert http.post("/v1/auth/sessions", json=refused).status_code == 401
        key = http.post("/v1/keys", json={"name": "laptop"}).json()["secret"]
        sent = {"max_cumulative": "5", "signature": voucher_signature}
        assert http.post(f"/v1/channels/{built.channel}/vouchers", json=sent).status_code == 201
        grant = {"key": some_account("key"), "cap": "9", "expiry": 4_000_000_000}
        relayed = {"grant": grant, "nonce": "0", "signature": "0x" + "ab" * 65}
        assert http.post("/v1/sessions/relay", json=relayed).status_code == 202
        assert http.get("/v1/auth/me", headers={"authorization": "Bearer llk_mistyped"}).status_code == 401
    with api.http(key) as http:
        asked = {"model": "tiny", "prompt": "my own business"}
        assert http.post("/v1/completions", json=asked).status_code == 200
        built.engine.generate = None  # type: ignore[assignment]  # a defect, whose traceback is logged
        assert http.post("/v1/completions", json=asked).status_code == 500
    text = logged(loud)
    assert "sqlalchemy" in text
    assert "Traceback" in text
    secrets = {*(each[name] for each in (pair, renewed) for name in ("token", "refresh_token"))}
    secrets |= {key, voucher_signature, wrong, relayed["signature"], "mistyped", "my own business"}
    assert not {secret for secret in secrets if str(secret).removeprefix("0x") in text}


def test_every_request_logs_one_line_by_its_route_and_without_its_path(
    caplog: pytest.LogCaptureFixture, api: Api
) -> None:
    """The line is written after the response is sent, so the client may be ahead of it."""

    def lines() -> list[logging.LogRecord]:
        return [r for r in caplog.records if getattr(r, "route", "") == "/v1/receipts/{receipt_id}"]

    caplog.set_level(logging.INFO, "backend.api.middleware")
    with api.http() as http:
        answer = http.get(f"/v1/receipts/{some_hash('mine')}?secret=1")
    (line,) = wait_for(lines)
    assert (line.status, line.method) == (answer.status_code, "GET")  # type: ignore[attr-defined]
    assert some_hash("mine") not in line.getMessage()
    assert "secret" not in str(line.__dict__)


def test_a_failed_statement_does_not_tell_its_parameters(sqlite_database: Database) -> None:
    """Its message goes to the log with the traceback."""
    channel, key = ChannelId(some_hash("channel")), some_account("key")
    with sqlite_database.begin() as tx:
        tx.channels.add_held_key(channel, key)
        with pytest.raises(SQLAlchemyError) as caught:
            tx.channels.add_held_key(channel, key)
        tx.session.rollback()
    assert key not in str(caught.value)
