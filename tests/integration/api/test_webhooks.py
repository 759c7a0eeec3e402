"""Webhook endpoints over HTTP, with OpenAI's own client, and as docs/webhooks.md has them."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from openai import OpenAI
from typer.testing import CliRunner

from backend.chain.local_node import ROOT
from backend.cli.main import app
from backend.domain.webhooks import EventType
from backend.outbound.client import OutboundClient
from backend.services.accounts.balance_events import BalanceEvents
from backend.services.webhooks.delivery import Deliveries
from backend.services.webhooks.endpoints import Endpoints
from backend.services.webhooks.events import SAMPLES, emit
from tests.support.receiver import receiving
from tests.support.terminal import act_as_payer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

    from tests.integration.api.conftest import Api
    from tests.support.receiver import Receiver
    from tests.support.scripted_installation import ScriptedInstallation

GUIDE = ROOT / "docs" / "webhooks.md"
PATH = "/v1/webhook_endpoints"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def _real_time(installation: ScriptedInstallation) -> None:
    """Verifiers compare the time of a signature with their own clock. To be asked for before `api`, whose
    session would be over.
    """
    installation.clock.now = datetime.now(UTC)


@pytest.fixture
def deliveries(api: Api) -> Deliveries:
    built = api.installation
    return Deliveries(built.db, OutboundClient(allows_private=True), built.signing_secrets, built.clock)


def register(api: Api, url: str, **options: Any) -> dict[str, Any]:
    body = {"url": url, "name": "mine", "event_types": list(EventType)} | options
    with api.http(api.session) as http:
        answer = http.post(PATH, json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def tell(api: Api, event_type: EventType) -> None:
    with api.installation.begin() as tx:
        emit(tx, api.installation.payer.account, event_type, SAMPLES[event_type], api.installation.clock())


def send_due(deliveries: Deliveries) -> None:
    for delivery in deliveries.claim(16):
        deliveries.send(delivery)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.usefixtures("_real_time")
def test_openais_client_manages_endpoints(api: Api, receiver: Receiver) -> None:
    events: Any = ["fine_tuning.job.succeeded", "fine_tuning.job.failed"]
    with OpenAI(base_url=f"{api.url}/v1", api_key=api.session, max_retries=0) as client:
        made = client.webhooks.create(url=receiver.url, name="mine", event_types=events)
        assert made.signing_secret.startswith("whsec_")
        assert made.event_types == events
        assert list(client.webhooks.event_types.list().data) == list(EventType)
        renamed = client.webhooks.update(made.id, name="other")
        assert (renamed.name, renamed.url) == ("other", receiver.url)
        rotated = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        assert rotated.signing_secret != made.signing_secret
        others = [client.webhooks.create(url=receiver.url, name="more", event_types=events) for _ in range(2)]
        listed = list(client.webhooks.list(limit=1))
        assert {found.id for found in listed} == {made.id, *(other.id for other in others)}
        retrieved = client.webhooks.retrieve(made.id)
        assert "signing_secret" not in retrieved.to_dict()
        assert retrieved.signing_secret_hint == f"whsec_...{rotated.signing_secret[-4:]}"
        tested = client.webhooks.test(made.id, event_type="fine_tuning.job.failed")
        assert (tested.status_code, tested.success) == (204, True)
        [(headers, body)] = receiver.requests
        for secret in (made.signing_secret, rotated.signing_secret):
            event = client.webhooks.unwrap(body, headers, secret=secret)
            assert event.type == "fine_tuning.job.failed"
        assert client.webhooks.delete(made.id).deleted
        assert len(list(client.webhooks.list())) == 2


def test_deliveries_show_their_last_attempt_and_the_next(
    api: Api, receiver: Receiver, deliveries: Deliveries
) -> None:
    made = register(api, receiver.url)
    receiver.status = 301
    for event_type in (EventType.JOB_SUCCEEDED, EventType.JOB_FAILED):
        tell(api, event_type)
    send_due(deliveries)
    path, now = f"{PATH}/{made['id']}/deliveries", int(api.installation.clock().timestamp())
    with api.http() as http:
        first = http.get(path, params={"limit": 1}).json()
        second = http.get(path, params={"limit": 1, "after": first["next_cursor"]}).json()
        refused = http.get(path, params={"after": "bm8"})
    assert first["data"][0]["state"] == "pending"
    assert (first["data"][0]["num_attempts"], first["data"][0]["attempted_at"]) == (0, None)
    [delivery] = second["data"]
    assert second["next_cursor"] is None
    assert delivery["event_type"] == "fine_tuning.job.succeeded"
    assert delivery["id"] == receiver.ids[0]
    assert (delivery["num_attempts"], delivery["status_code"]) == (1, 301)
    assert "redirects are not followed" in delivery["error"]
    assert now + 5 <= delivery["next_attempt_at"] <= now + 6
    assert refused.json()["error"]["param"] == "after"


def test_an_endpoint_is_told_when_its_channel_is_low(
    api: Api, receiver: Receiver, deliveries: Deliveries
) -> None:
    built = api.installation
    register(api, receiver.url, event_types=["channel.balance_low"], low_balance={"micro_units": "99000"})
    events = BalanceEvents(built.db, built.counterparty, built.clock)
    events.sweep()
    built.fund(98_999)
    events.sweep()
    send_due(deliveries)
    [(_, body)] = receiver.requests
    assert json.loads(body)["data"]["available"]["micro_units"] == "98999"


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"event_types": ["job.succeeded"]}, "invalid_parameter", "event_types.0"),
        ({"event_types": []}, "invalid_parameter", "event_types"),
        ({"low_balance": 5}, "invalid_parameter", "low_balance"),
        ({"low_balance": "5", "event_types": ["fine_tuning.job.failed"]}, "invalid_input", "low_balance"),
        ({"name": ""}, "invalid_input", "name"),
        ({"url": "ftp://example.org/"}, "webhook_url_refused", "url"),
        ({"secret": "whsec_mine"}, "unknown_parameter", "secret"),
    ],
)
def test_bad_input_is_named(api: Api, options: dict[str, Any], code: str, param: str) -> None:
    body = {"url": "http://127.0.0.1:1/", "name": "mine", "event_types": list(EventType)} | options
    with api.http(api.session) as http:
        answer = http.post(PATH, json=body)
        assert answer.status_code == 400
        assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)
        assert http.get(PATH).json()["data"] == []


def test_an_unknown_event_type_is_answered_with_the_known_ones(api: Api) -> None:
    with api.http(api.session) as http:
        body = {"url": "http://127.0.0.1:1/", "name": "mine", "event_types": ["job.succeeded"]}
        message = http.post(PATH, json=body).json()["error"]["message"]
    assert all(event_type in message for event_type in EventType)


@pytest.mark.parametrize(
    ("refused", "why"), [("https://10.0.0.1/hook", "private network"), ("http://8.8.8.8/hook", "not https")]
)
def test_on_a_public_network_urls_are_public_and_encrypted(api: Api, refused: str, why: str) -> None:
    built = api.installation
    public = Endpoints(built.db, OutboundClient(), built.signing_secrets, built.clock)
    object.__setattr__(built.services, "webhooks", public)  # the services of an installation are frozen
    with api.http(api.session) as http:
        answer = http.post(PATH, json={"url": refused, "name": "mine", "event_types": list(EventType)})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "webhook_url_refused"
    assert why in answer.json()["error"]["message"]


def test_the_sixth_endpoint_is_refused(api: Api) -> None:
    for _ in range(5):
        register(api, "http://127.0.0.1:1/")
    with api.http(api.session) as http:
        body = {"url": "http://127.0.0.1:1/", "name": "mine", "event_types": list(EventType)}
        answer = http.post(PATH, json=body)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "too_many_endpoints"


def test_an_endpoint_that_does_not_answer_a_test_is_a_422(api: Api) -> None:
    made = register(api, "http://127.0.0.1:1/hook")
    with api.http(api.session) as http:
        answer = http.post(f"{PATH}/{made['id']}/test", json={"event_type": "fine_tuning.job.failed"})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "endpoint_unreachable"


def test_keys_read_and_only_sessions_change(api: Api) -> None:
    made = register(api, "http://127.0.0.1:1/hook")
    path = f"{PATH}/{made['id']}"
    with api.http() as http:
        assert http.get(PATH).status_code == 200
        assert "signing_secret" not in http.get(path).json()
        for answer in (
            http.post(PATH, json={"url": "http://a/", "name": "a", "event_types": list(EventType)}),
            http.post(path, json={"name": "b"}),
            http.post(f"{path}/rotate_secret", json={}),
            http.post(f"{path}/test", json={"event_type": "fine_tuning.job.failed"}),
            http.delete(path),
        ):
            assert answer.status_code == 403
    with api.http(api.session) as http:
        assert http.get(f"{PATH}/we_none").status_code == 404


def test_the_page_names_every_event_with_its_data(api: Api) -> None:
    page = GUIDE.read_text()
    for event_type, data in SAMPLES.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{event_type.value}` |"))
        assert all(f"`{name}`" in row for name in data)


@pytest.mark.usefixtures("_real_time")
def test_the_receiver_of_the_page_verifies_deliveries_and_handles_each_once(
    api: Api, receiver: Receiver, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = register(api, receiver.url)
    tell(api, EventType.JOB_SUCCEEDED)
    send_due(deliveries)
    [(headers, body)] = receiver.requests
    monkeypatch.setenv("WEBHOOK_SECRET", made["signing_secret"])
    [snippet] = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(snippet, str(GUIDE), "exec"), names)  # noqa: S102 - the page's own code
    handled: list[Any] = []
    names["handle"] = handled.append
    with TestClient(names["app"]) as client:
        for _ in range(2):
            assert client.post("/hook", content=body, headers=headers).status_code == 204
        forged = body.replace(b"succeeded", b"cancelled")
        assert client.post("/hook", content=forged, headers=headers).status_code == 400
    assert handled == [json.loads(body)]


def test_every_command_of_the_page_does_what_it_says(
    api: Api, receiver: Receiver, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    act_as_payer(api, monkeypatch)
    endpoint = ""

    def type_in(command: str) -> Result:
        words = command.replace("https://example.org/hook", receiver.url).replace("$ENDPOINT", endpoint)
        program, *arguments = shlex.split(words.replace("\\\n", " "))
        assert program == "loraledger"
        return CliRunner().invoke(app, arguments)

    commands = blocks("sh")
    assert len(commands) == 7
    said = []
    for command in commands:
        if "deliveries" in command:
            receiver.status = 500
            tell(api, EventType.JOB_FAILED)
            send_due(deliveries)
        result = type_in(command)
        assert result.exit_code == 0, (command, result.output, result.exception)
        said.append(result.output)
        endpoint = endpoint or re.findall(r"we_[0-9a-f]+", result.output)[0]
    assert "whsec_" in said[0]
    assert "channel.balance_low below 2 dollars" in said[1]
    assert said[2] == "The endpoint answered with status 204.\n"
    assert "pending after 1 attempt, next at" in said[3]
    assert "status 500" in said[3]
    assert "whsec_" in said[4]
    assert said[5] == f"{endpoint} is enabled\n"
    assert said[6] == f"{endpoint} is deleted\n"
