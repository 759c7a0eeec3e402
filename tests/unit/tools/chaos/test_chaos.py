from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openai import APIConnectionError, APIError, InternalServerError
from sqlalchemy import create_engine, text

from backend.cli.operator.demo.questions import Answer, Question
from backend.cli.operator.demo.reconciliation import Reconciliation
from backend.client.errors import ApiError
from backend.domain.errors import Conflict
from backend.domain.ids import Account, ChannelId, Hash32
from backend.domain.money import UNIT
from backend.services.accounts.claims import MIN_RELAYED_UNITS
from tools.chaos import game
from tools.chaos.__main__ import KILLS_PER_SETTLEMENT, faults
from tools.chaos.checks import (
    StoredReceipt,
    Totals,
    charged_failures,
    check_bills,
    check_charged_failures,
    check_earnings,
    check_intervals,
    seconds_until_ready,
    seconds_until_served,
)
from tools.chaos.clock import WallClock
from tools.chaos.errors import ChaosError
from tools.chaos.faults import KILLED, Fault, kill
from tools.chaos.market import is_ready
from tools.chaos.proxy import Proxy
from tools.chaos.report import NOT_ENDED, Report, Round, table
from tools.chaos.traffic import Traffic, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def echo() -> Iterator[Proxy]:
    """A proxy before a server that repeats what it reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=repeat, args=[connection], daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        with Proxy(lambda: socket.create_connection(listener.getsockname())) as proxy:
            yield proxy
        listener.shutdown(socket.SHUT_RDWR)


def repeat(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(100):
            connection.sendall(data)


def connected(proxy: Proxy) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", proxy.port))
    connection.settimeout(10)
    return connection


def test_a_proxy_forwards_until_it_is_cut_and_again_afterwards(echo: Proxy) -> None:
    with connected(echo) as first:
        first.sendall(b"hello")
        assert first.recv(100) == b"hello"
        echo.cut()
        assert first.recv(100) == b""
    with connected(echo) as second:
        assert second.recv(100) == b""
    echo.restore()
    with connected(echo) as third:
        third.sendall(b"again")
        assert third.recv(100) == b"again"


def test_every_process_is_killed_and_the_money_counted_in_between() -> None:
    chosen = list(faults(25, seed=1, has_disk=True))
    assert [fault.name for fault, _ in chosen[: len(KILLED)]] == [f"kill -9 {name}" for name in KILLED]
    counted = [number for number, (_, must_settle) in enumerate(chosen) if must_settle]
    assert counted[:3] == [KILLS_PER_SETTLEMENT - 1, 2 * KILLS_PER_SETTLEMENT - 1, 24]
    assert all(must_settle for _, must_settle in chosen[25:])
    assert chosen[-1][0].name == "disk full"
    names = [fault.name for fault, _ in faults(25, seed=1, has_disk=True)]
    assert names == [fault.name for fault, _ in chosen], "a seed repeats"


def test_a_slow_proxy_delays_what_it_forwards(echo: Proxy) -> None:
    with connected(echo) as client:
        echo.slow(0.05)
        began = time.monotonic()
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        assert time.monotonic() - began >= 0.1, "both directions are delayed"
        assert echo.num_delayed == 2
        echo.restore()
        client.sendall(b"again")
        assert client.recv(100) == b"again"
        assert echo.num_delayed == 2


def test_the_wall_clock_of_a_running_program_moves_and_no_other_clock(tmp_path: Path) -> None:
    program = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
    with (
        WallClock(tmp_path) as clock,
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, **clock.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as shown,
    ):
        assert shown.stdin is not None
        assert shown.stdout is not None
        for skew in (0, 600, -600, 0):
            clock.move(skew)
            shown.stdin.write("\n")
            wall, monotonic = map(float, shown.stdout.readline().split())
            assert wall - time.time() == pytest.approx(skew, abs=60)
            assert monotonic == pytest.approx(time.monotonic(), abs=60)


def a_round(fault: str, seconds: float, replaced: float | None = None, **reasons: int) -> Round:
    return Round(fault, seconds, replaced, 0.5, 250_000, 3, reasons, charged_failures=1)


def test_the_table_sums_up_each_fault_and_why_requests_failed() -> None:
    rounds = [
        *(a_round("kill -9 send", seconds, seconds + 1, refused=1) for seconds in (1.0, 9.0, 2.0)),
        a_round("disk full", 4.5, refused=1, broken=5),
    ]
    assert table(rounds).splitlines()[2:] == [
        "| kill -9 send | 3 | 0.5 | 2.0 | 9.0 | 3.0 | 10.0 | 9 | 3 | 3 |",
        "| disk full | 1 | 0.5 | 4.5 | 4.5 |  |  | 3 | 6 | 1 |",
        "",
        "Requests failed with: 5 broken, 4 refused.",
    ]
    assert table([a_round("disk full", 4.5)]).splitlines()[-1].endswith("| 3 | 0 | 1 |")


def test_a_run_that_is_stopped_keeps_what_it_found(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    report = Report(path, {"seed": 1})
    for count in (1, 2):
        report.add(a_round("disk full", 4.5, refused=count))
        written = json.loads(path.read_text())
        assert written["seed"] == 1
        assert written["error"] == NOT_ENDED
        assert [each["reasons"] for each in written["rounds"]] == [{"refused": n + 1} for n in range(count)]
    report.write(None)
    assert json.loads(path.read_text())["error"] is None


def test_a_failed_request_is_named_by_what_its_client_saw() -> None:
    request = httpx.Request("POST", "http://127.0.0.1/v1/chat/completions")
    body = {"code": "engine_unavailable"}
    refused = InternalServerError("later", response=httpx.Response(503, request=request), body=body)
    assert reason_of(refused) == "503 engine_unavailable"
    assert reason_of(APIConnectionError(request=request)) == "no connection"
    assert reason_of(APIError("later", request, body=body)) == "engine_unavailable in a stream"
    stale = ApiError("POST /v1: later", details={"status": 503, "code": "view_stale"})
    assert reason_of(stale) == "503 view_stale"
    assert reason_of(Conflict("no bill")) == "Conflict"


def receipt(end: int, charge: int, channel: str = "0xa", number: str | None = None) -> StoredReceipt:
    return StoredReceipt(number or f"{channel}-{end}", "payer", channel, end, charge)


def test_receipts_are_paid_once_if_they_follow_each_other_up_to_what_the_chain_collected() -> None:
    a, b = (ChannelId(Hash32(name)) for name in ("0xa", "0xb"))
    right = [receipt(5, 5), receipt(7, 7, "0xb"), receipt(5, 0), receipt(9, 4)]
    check_intervals(right, {a: 9, b: 7})
    for stored, collected in (
        ([right[0], right[3], right[1]], {a: 9, b: 8}),  # the chain collected more
        ([right[0], right[1]], {a: 5}),  # a receipt of a channel from which the chain collected nothing
        ([right[0], right[1]], {a: 9, b: 7}),  # a lost one
    ):
        with pytest.raises(ChaosError, match="and the chain collected"):
            check_intervals(stored, collected)
    for stored in ([receipt(5, 5), receipt(5, 5)], [receipt(5, 5), receipt(10, 4)]):
        with pytest.raises(ChaosError, match="after one that ends at 5"):
            check_intervals(stored, {a: 5})


def test_each_whole_answer_has_a_receipt_of_its_own() -> None:
    def bills(*pairs: tuple[str, int]) -> list[Answer]:
        return [Answer(Question("base", "?"), "!", number, charge) for number, charge in pairs]

    stored = [receipt(5, 5, number="r1"), receipt(9, 4, number="r2")]
    check_bills(stored, bills(("r1", 5)))
    with pytest.raises(ChaosError, match="two answers have one receipt"):
        check_bills(stored, bills(("r1", 5), ("r1", 5)))
    for lost in (("r3", 5), ("r2", 5)):
        with pytest.raises(ChaosError, match="1 answers have lost their receipts, such as r"):
            check_bills(stored, bills(("r1", 5), lost))


def test_a_process_is_ready_once_it_is_connected_or_listens(tmp_path: Path) -> None:
    def ready(held: socket.socket, *ports: int) -> bool:
        with subprocess.Popen(["sleep", "60"], pass_fds=[held.fileno()]) as process:
            try:
                return is_ready(process.pid, ports)
            finally:
                process.kill()

    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as engine:
        port = server.getsockname()[1]
        assert not ready(server, port), "listens, and is connected to nothing"
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert ready(client, port)
            assert not ready(client)
        engine.bind(str(tmp_path / "engine.sock"))
        assert not ready(engine)
        engine.listen()
        assert ready(engine)
    assert not is_ready(0, [port]), "has ended"


def test_a_killed_process_is_back_once_its_successor_is_ready(tmp_path: Path) -> None:
    states = {"send": [False, True], "watch": [False, False, True]}
    market: Any = SimpleNamespace(has_ready_successor=lambda name, _pid: states[name].pop(0))
    since = time.monotonic()
    assert seconds_until_ready(market, {"send": 1, "watch": 2}, 600, since) < 600
    assert states == {"send": [], "watch": []}
    states["watch"] = [False]
    with pytest.raises(ChaosError, match="watch is not ready 0 s after it was killed"):
        seconds_until_ready(market, {"watch": 3}, 0, since)


def test_a_round_has_what_was_received_and_charged_and_when_the_process_was_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = [0, 2]
    answer = Answer(Question("base", "?"), "!", "r1", 5)

    def ask(traffic: Traffic, _key: str, _model: str) -> bool:
        time.sleep(0.01)
        traffic.bills.append(answer)
        return True

    monkeypatch.setattr(Traffic, "ask", ask)
    monkeypatch.setattr(game, "MAX_CALM_SECONDS", 0.5)
    monkeypatch.setattr(game, "token_funds", lambda _market: {})
    monkeypatch.setattr(game, "charged_failures", lambda _market, _bills: counted.pop(0))
    monkeypatch.setattr(game, "settle", lambda _market: Totals([receipt(5, 5)], jobs=0))
    monkeypatch.setattr(game, "check_money", lambda *given: 7 * len(given[-1]))
    jobs = SimpleNamespace(refusals=Counter(), is_pending=False, finish=list)
    market: Any = SimpleNamespace(
        facts={"api": "http://127.0.0.1:1"},
        base_model="base",
        adapter="adapter",
        keys=["key"] * 2,
        jobs=jobs,
        pid=lambda _name: 1,
        kill=lambda _name: time.monotonic(),
        has_ready_successor=lambda _name, _pid: True,
        check_up=lambda: None,
        await_up=lambda: None,
        claim=lambda: ["contributor"],
    )
    played = game.Game(market, seed=1, limit=30, say=lambda _text: None)
    found = played.play(kill("engine"), must_settle=True)
    assert (found.receipts, found.charged, found.jobs, found.received) == (1, 5, 0, 7)
    assert found.ready_after_seconds is not None
    assert (found.answers > 2, found.charged_failures, found.failures) == (True, 0, 0)
    calm = Fault("calm", lambda _market: None, loses_bills=True)
    with pytest.raises(ChaosError, match="2 receipts are of no answer"):
        played.play(calm, must_settle=False)


def test_receipts_without_a_bill_are_counted_those_of_training_left_out() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE receipts (payer)"))
        connection.execute(text("INSERT INTO receipts VALUES ('payer'), ('creator'), ('payer')"))
    database = SimpleNamespace(engine=engine)
    market: Any = SimpleNamespace(
        jobs=SimpleNamespace(account="creator"),
        installation=lambda: SimpleNamespace(database=database, close=engine.dispose),
    )
    assert charged_failures(market, [Answer(Question("base", "?"), "!", "r1", 5)]) == 1


def test_a_failed_request_is_charged_only_where_its_bill_can_be_lost() -> None:
    for name in ("serve", "engine"):
        check_charged_failures(kill(name), charged=0, failed=2)
    check_charged_failures(kill("serve"), charged=2, failed=2)
    for fault, charged in ((kill("serve"), 3), (kill("engine"), 1)):
        with pytest.raises(ChaosError, match=f"{charged} receipts are of no answer that a client got"):
            check_charged_failures(fault, charged, failed=2)


def test_who_earned_receives_it_but_for_what_is_not_worth_a_transaction() -> None:
    earner = Account("0xe")

    def found(credited: int, received: int) -> Reconciliation:
        return Reconciliation(0, 0, 0, {earner: credited}, {}, {earner: received}, is_proven=True)

    least = MIN_RELAYED_UNITS * UNIT
    for credited, received in ((least, least), (2 * least - 1, least)):
        check_earnings(found(credited, received), [earner])
    for credited, received in ((0, 0), (least - 1, 0), (2 * least, least), (least - 1, least)):
        with pytest.raises(ChaosError, match="to 0xe, which claimed and received"):
            check_earnings(found(credited, received), [earner])
    with pytest.raises(ChaosError, match="to 0xf, which claimed and received"):
        check_earnings(found(least, least), [earner, Account("0xf")])


def test_half_of_the_requests_are_for_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    traffic = Traffic("http://127.0.0.1:1", ["base", "adapter"], ["key"])

    def ask(_self: Traffic, _key: str, model: str) -> bool:
        asked.append(model)
        return True

    monkeypatch.setattr(Traffic, "ask", ask)
    with traffic:
        while len(asked) < 4:
            time.sleep(0.001)
    assert asked[:4] == ["base", "adapter"] * 2


def test_an_answer_of_each_model_is_awaited_as_long_as_one_can_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, came = list[str](), [False, True, False, False, True]

    def ask(_self: Traffic, _key: str, model: str) -> bool:
        asked.append(model)
        return came.pop(0)

    traffic = Traffic("http://127.0.0.1:1", ["base", "adapter"], [])
    monkeypatch.setattr(Traffic, "ask", ask)
    assert seconds_until_served(traffic, "key", 600, lambda: None, time.monotonic()) < 600
    assert asked == ["base"] * 2 + ["adapter"] * 3

    def ended() -> None:
        raise ChaosError("`loraledger up` has ended")

    came = [True, False]
    with pytest.raises(ChaosError, match="has ended"):
        seconds_until_served(traffic, "key", 600, ended, time.monotonic())
