"""Rate limits of requests and tokens by key, wallet and address, in one process and in several."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from starlette.requests import Request

from backend.api.rate_limits import REQUEST_BYTES, RateLimitExceeded, RateLimits
from backend.api.streams import OpenStreams
from backend.db.unit_of_work import Database
from backend.domain.errors import DatabaseUnavailable
from backend.services.accounts.rate_counts import MemoryCounts, SharedCounts
from backend.settings import Settings
from tests.integration.api.conftest import running_server, sign_in
from tests.support.fakes import some_key
from tests.support.market import some_hash
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI

    from backend.domain.rate_limits import Count
    from backend.services.accounts.rate_counts import RateCounts
    from tests.integration.api.conftest import Api

Limit = Callable[..., None]
PROGRAM = Path(__file__).with_name("counting_process.py")


@pytest.fixture
def counts(database: Database) -> RateCounts:
    """Those of an installation on SQLite and on PostgreSQL."""
    return SharedCounts(database) if database.is_shared else MemoryCounts()


@pytest.fixture
def limit(api: Api, server: tuple[FastAPI, str], counts: RateCounts) -> Iterator[Limit]:
    """Sets rates, from nothing counted on."""
    made: list[RateLimits] = []

    def set_rates(**rates: int) -> None:
        made.append(RateLimits(some_rates(**rates), counts))
        server[0].state.services = replace(api.installation.services, rate_limits=made[-1])

    yield set_rates
    # The API counts an answer's tokens once it has sent them, and the database is closed after this test.
    assert wait_for(lambda: not any(limits._counting for limits in made))


def some_rates(**rates: int) -> Settings:
    """These rates, and no other limits."""
    off = dict.fromkeys((name for name in Settings.model_fields if name.endswith("_per_minute")), 0)
    return Settings(**(off | rates))


def ask(api: Api) -> openai.types.chat.ChatCompletion:
    return api.openai.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])


def test_every_answer_says_how_its_caller_stands(api: Api, limit: Limit) -> None:
    limit(key_requests_per_minute=10, wallet_requests_per_minute=5, key_tokens_per_minute=100)
    shown = []
    for _ in range(2):
        raw = api.openai.chat.completions.with_raw_response.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}]
        )
        names = ("limit-requests", "remaining-requests", "limit-tokens", "remaining-tokens")
        shown.append([raw.headers[f"x-ratelimit-{name}"] for name in names])
    assert shown == [["5", "4", "100", "100"], ["5", "3", "100", "95"]]
    assert 0 < int(raw.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60


def test_refusals_and_streams_say_it_too(api: Api, limit: Limit) -> None:
    limit(wallet_requests_per_minute=5)
    with api.http() as http:
        refused = http.post("/v1/chat/completions", json={})
        streamed = http.post("/v1/completions", json={"model": "tiny", "prompt": "a", "stream": True})
    assert refused.headers["x-ratelimit-remaining-requests"] == "4"
    assert streamed.headers["x-ratelimit-remaining-requests"] == "3"


def test_bodies_that_are_no_json_count_too(api: Api, limit: Limit) -> None:
    limit(wallet_requests_per_minute=2, address_requests_per_minute=1)
    malformed = {"content": b'{"model": [', "headers": {"content-type": "application/json"}}
    with api.http() as http, httpx.Client(base_url=api.url) as stranger:
        for _ in range(2):
            assert http.post("/v1/chat/completions", **malformed).status_code == 400
        assert http.post("/v1/chat/completions", **malformed).status_code == 429
        answers = [stranger.post("/v1/chat/completions", **malformed).status_code for _ in range(2)]
        assert answers == [401, 429]


def test_a_wallets_keys_share_its_requests(api: Api, limit: Limit) -> None:
    limit(key_requests_per_minute=2, wallet_requests_per_minute=3)
    with api.http() as key, api.http(api.session) as session:
        assert [key.get("/v1/auth/me").status_code for _ in range(3)] == [200, 200, 429]
        refused = session.get("/v1/auth/me")
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert (error["details"]["scope"], error["details"]["limit"]) == ("wallet", 3)
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_another_wallet_is_not_held_up(api: Api, limit: Limit) -> None:
    other = sign_in(api.url, some_key("another wallet"))
    limit(wallet_requests_per_minute=1)
    with api.http() as mine, api.http(other) as theirs:
        assert [mine.get("/v1/auth/me").status_code for _ in range(2)] == [200, 429]
        assert theirs.get("/v1/auth/me").status_code == 200


def test_without_tokens_left_no_answer_begins(api: Api, limit: Limit) -> None:
    limit(key_tokens_per_minute=6)
    ask(api)  # one of the prompt and four of the answer
    ask(api)
    with pytest.raises(openai.RateLimitError) as caught:
        ask(api)
    assert caught.value.code == "rate_limit_exceeded"
    assert "tokens" in caught.value.message
    assert len(api.installation.engine.requests) == 2
    with api.http() as http:
        assert http.get("/v1/auth/me").status_code == 200


def test_a_client_that_hangs_up_spends_its_tokens_too(api: Api, limit: Limit) -> None:
    limit(key_tokens_per_minute=3)
    api.installation.engine.waits_after = 2
    body = {"model": "tiny", "prompt": "a", "stream": True}
    with api.http() as http:
        with http.stream("POST", "/v1/completions", json=body) as answer:
            next(answer.iter_lines())
        for _ in range(600):
            shown = http.get("/v1/auth/me")
            if shown.headers["x-ratelimit-remaining-tokens"] == "0":
                return
    pytest.fail("the tokens were never counted")


def test_a_replay_counts_as_one_request(api: Api, limit: Limit) -> None:
    limit(wallet_requests_per_minute=10)
    with api.http() as http:
        found = [
            http.post(
                "/v1/completions", json={"model": "tiny", "prompt": "a"}, headers={"idempotency-key": "a"}
            )
            for _ in range(2)
        ]
    assert [each.headers["x-ratelimit-remaining-requests"] for each in found] == ["9", "8"]


def test_a_body_counts_as_a_request_for_each_64_kib(api: Api, limit: Limit) -> None:
    limit(wallet_requests_per_minute=100)
    body = b'{"model": ""}' + b" " * (3 * REQUEST_BYTES)
    headers = {"content-type": "application/json"}
    with api.http() as http:
        sent: list[bytes | Iterator[bytes]] = [body, body[:REQUEST_BYTES], iter((body,))]
        left = [
            http.post("/v1/completions", content=each, headers=headers).headers[
                "x-ratelimit-remaining-requests"
            ]
            for each in sent
        ]
        keyed = http.post("/v1/completions", content=body, headers=headers | {"idempotency-key": "a"})
    assert left == ["96", "95", "91"]  # the last has no content-length
    assert keyed.headers["x-ratelimit-remaining-requests"] == "87"


def test_one_body_is_no_more_than_a_limit(api: Api, limit: Limit) -> None:
    """It is not refused in each minute anew."""
    limit(key_requests_per_minute=2, wallet_requests_per_minute=9)
    with api.http() as http:
        found = [
            http.post("/v1/completions", content=b" " * (4 * REQUEST_BYTES)).status_code for _ in range(2)
        ]
    assert found == [400, 429]


def test_an_upload_counts_as_one_request(api: Api, limit: Limit) -> None:
    limit(wallet_requests_per_minute=10)
    where = "datanet=7&name=letters&licence=MIT"
    with api.http(api.session) as http:
        answer = http.post(f"/v1/contributions?{where}", content=b" " * (REQUEST_BYTES + 100))
    assert answer.headers["x-ratelimit-remaining-requests"] == "9"


def test_strangers_are_counted_by_address(api: Api, limit: Limit) -> None:
    limit(address_requests_per_minute=2)
    account = some_key("payer").account
    found = [
        httpx.post(f"{api.url}/v1/auth/challenges", json={"account": account}).status_code for _ in range(3)
    ]
    assert found == [201, 201, 429]
    assert httpx.get(f"{api.url}/health").status_code == 200


@pytest.mark.parametrize("path", ["/sign-in", "/sign-in/challenge"])
def test_bodies_for_pages_are_counted_before_they_are_parsed(api: Api, limit: Limit, path: str) -> None:
    limit(address_requests_per_minute=9)
    headers = {"accept": "application/json", "content-type": "application/json"}
    malformed = b'{"account": [' + b" " * (4 * REQUEST_BYTES)
    with httpx.Client(base_url=api.url, headers=headers) as stranger:
        answers = [stranger.post(path, content=malformed) for _ in range(2)]
    assert [answer.json()["error"]["code"] for answer in answers] == ["forbidden", "rate_limit_exceeded"]


@pytest.mark.parametrize("path", ["/v1/auth/challenges", "/sign-in"])
@pytest.mark.parametrize("header", ["content-length: 9", "transfer-encoding: chunked"])
def test_a_client_that_hangs_up_within_a_body_is_counted_and_is_no_fault_of_the_server(
    api: Api, limit: Limit, caplog: pytest.LogCaptureFixture, path: str, header: str
) -> None:
    limit(address_requests_per_minute=1)
    where, head = urlsplit(api.url), f"POST {path} HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n"
    with caplog.at_level(logging.INFO):
        with socket.create_connection((where.hostname, where.port)) as connection:
            connection.sendall(f"{head}1\r\n{{\r\n".encode())
        statuses = wait_for(
            lambda: [vars(one)["status"] for one in caplog.records if vars(one).get("route") == path]
        )
    assert statuses == [400]
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []
    assert httpx.post(api.url + path, json={}).status_code == 429


def test_scripts_of_pages_without_a_session_are_counted_by_address(api: Api, limit: Limit) -> None:
    limit(address_requests_per_minute=3)
    ended = f"lls_x.llr_{'0' * 32}_{'0' * 64}"
    with httpx.Client(base_url=api.url, cookies={"loraledger_session": ended}) as stranger:
        answers = [stranger.request(method, "/session/v1/keys") for method in ("GET", "POST") * 2]
    assert [answer.status_code for answer in answers] == [401, 403, 401, 429]
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "2"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60


def test_a_token_that_is_none_is_counted_by_address(api: Api, limit: Limit) -> None:
    limit(address_requests_per_minute=2)
    with api.http("llk_unknown") as stranger, api.http() as payer:
        assert [stranger.get("/v1/auth/me").status_code for _ in range(3)] == [401, 401, 429]
        assert stranger.get("/v1/models").status_code == 429
        assert payer.get("/v1/auth/me").status_code == 200


def test_peers_read_ten_times_as_much_content_as_an_address_asks_for_other_things(
    api: Api, limit: Limit
) -> None:
    limit(address_requests_per_minute=1)
    path = f"/ipfs/{api.installation.blobs.add_folder({'a.txt': b'kept'})}?format=raw"
    with api.http() as http:
        assert [http.get("/v1/models").status_code for _ in range(2)] == [200, 429]
        assert [http.get(path).status_code for _ in range(11)] == [200] * 10 + [429]


@pytest.fixture
def one_stream(server: tuple[FastAPI, str]) -> Iterator[None]:
    """Each address may have one event stream open."""
    state = server[0].state
    before, state.event_streams = state.event_streams, OpenStreams(1)
    yield
    state.event_streams = before


@pytest.mark.usefixtures("one_stream")
def test_few_event_streams_of_an_address_are_open_at_once(api: Api) -> None:
    with api.http(api.session) as http:
        job = http.post("/v1/fine_tuning/jobs", json={"snapshot_id": some_hash("snapshot")}).json()["id"]
        path = f"/v1/fine_tuning/jobs/{job}/events/stream"
        assert http.get("/v1/fine_tuning/jobs/none/events/stream").status_code == 404  # holds none
        with http.stream("GET", path) as first:
            assert first.status_code == 200
            refused = http.get(path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_streams")
        http.post(f"/v1/fine_tuning/jobs/{job}/cancel")
        for _ in range(600):
            if http.get(path).status_code == 200:
                return
    pytest.fail("the stream was held after its client had hung up")


def test_no_rates_are_no_limits(api: Api, limit: Limit) -> None:
    limit()
    with api.http() as http:
        shown = http.get("/v1/auth/me")
    assert shown.status_code == 200
    assert not [name for name in shown.headers if name.startswith("x-ratelimit")]


def test_processes_admit_no_more_than_one_would(postgres_database: Database) -> None:
    url = postgres_database.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, str(PROGRAM), url, "250", "150"]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # all have imported what they need
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        admitted = [int(process.communicate()[0]) for process in processes]
    assert sum(admitted) == 250, admitted


def test_tokens_of_one_api_process_count_at_the_other(
    api: Api, server: tuple[FastAPI, str], postgres_database: Database
) -> None:
    def process() -> RateLimits:
        return RateLimits(some_rates(key_tokens_per_minute=9), SharedCounts(postgres_database))

    with running_server(Settings()) as (other_app, other_url):
        other_app.state.services = replace(api.installation.services, rate_limits=process())
        server[0].state.services = replace(api.installation.services, rate_limits=process())
        other = replace(api, url=other_url)
        for asked, shown, left in ((api, other, "4"), (other, api, "0")):
            ask(asked)
            with shown.http() as http:
                for _ in range(600):
                    if http.get("/v1/auth/me").headers["x-ratelimit-remaining-tokens"] == left:
                        break
                else:
                    pytest.fail("the tokens were never counted at the other process")
        for each in (api, other):
            with pytest.raises(openai.RateLimitError):
                ask(each)


def test_without_the_database_a_request_is_refused_and_not_admitted(
    api: Api, server: tuple[FastAPI, str]
) -> None:
    away = SharedCounts(Database.open("postgresql://market:secret@127.0.0.1:1/market"))
    limits = RateLimits(some_rates(wallet_requests_per_minute=5), away)
    server[0].state.services = replace(api.installation.services, rate_limits=limits)
    with api.http() as http:
        refused = http.get("/v1/auth/me")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "database_unavailable")
    assert "secret" not in refused.text
    with pytest.raises(openai.InternalServerError, match="not reachable"):
        ask(api)
    assert not api.installation.engine.requests


def test_an_answer_is_sent_even_if_its_tokens_cannot_be_counted(
    api: Api,
    limit: Limit,
    counts: RateCounts,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit(key_tokens_per_minute=100)
    add = counts.add

    async def away(amounts: Mapping[str, int]) -> dict[str, Count]:
        if any(amounts.values()):
            raise DatabaseUnavailable("The database of this installation is not reachable.")
        return await add(amounts)

    monkeypatch.setattr(counts, "add", away)
    assert ask(api).usage
    assert wait_for(lambda: "5 tokens of an answer count towards no rate limit" in caplog.text)


def test_an_address_of_any_length_is_counted(postgres_database: Database) -> None:
    """A proxy may pass on anything as an address."""
    limits = RateLimits(some_rates(address_requests_per_minute=1), SharedCounts(postgres_database))

    async def admit() -> None:
        await limits.admit(Request({"type": "http", "state": {}}), {"address": "9" * 100_000})

    asyncio.run(admit())
    with pytest.raises(RateLimitExceeded):
        asyncio.run(admit())
