"""Who may call what: every route of the API stands in one table, and is called by all who may not.

A route that the table lacks fails the first test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from backend.domain.adapter_files import MAX_BYTES
from backend.domain.governance import Proposal
from backend.domain.ids import DatanetId
from backend.domain.registries import Contribution, Datanet
from tests.integration.api.conftest import sign_in
from tests.support.fakes import some_key
from tests.support.market import some_account, some_hash
from tests.support.scripted_installation import METRICS_TOKEN
from tests.unit.workers.support import transferred

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

    from backend.domain.training import TrainingJob
    from tests.integration.api.conftest import Api

ANYONE, KEY, SESSION, OPERATOR = "anyone", "key", "session", "operator"


@dataclass(frozen=True)
class Rule:
    """`caller`: the least that a caller must show. `of_others`: what another wallet that shows it is answered
    about a thing of the payer's; None where the route names no such thing, or its thing is public.
    """

    caller: str
    of_others: int | None = None
    body: dict[str, Any] = field(default_factory=dict)
    """So sound that a refusal is about the caller."""
    headers: dict[str, str] = field(default_factory=dict)
    """Likewise."""


VOUCHER = {"max_cumulative": "1", "signature": "0x" + "11" * 65}
PIECE = {"tus-resumable": "1.0.0", "content-type": "application/offset+octet-stream", "upload-offset": "0"}
LISTING = {"name": "docs", "prompt_price": "1", "completion_price": "2", "operator_ppm": 0, "creator_ppm": 0}
SAMPLE = {"event_type": "fine_tuning.job.failed"}

TABLE = {
    "GET /openapi.json": Rule(ANYONE),
    "GET /health": Rule(ANYONE),
    "GET /ready": Rule(ANYONE),
    "GET /metrics": Rule(OPERATOR),
    "GET /ipfs/{cid}": Rule(ANYONE),
    # Signing in, and keys
    "POST /v1/auth/challenges": Rule(ANYONE),
    "POST /v1/auth/sessions": Rule(ANYONE),
    "POST /v1/auth/refresh": Rule(ANYONE, body={"refresh_token": "llr_unknown"}),
    "GET /v1/auth/me": Rule(KEY),
    "GET /v1/keys": Rule(SESSION),
    "POST /v1/keys": Rule(SESSION),
    "DELETE /v1/keys/{key_id}": Rule(SESSION, 404),
    # Answers, and what they cost
    "GET /v1/models": Rule(ANYONE),
    "GET /v1/models/{model}": Rule(ANYONE),
    "POST /v1/chat/completions": Rule(KEY),
    "POST /v1/completions": Rule(KEY),
    "POST /v1/responses": Rule(KEY),
    "GET /v1/receipts": Rule(KEY),
    "GET /v1/receipts/{receipt_id}": Rule(KEY, 200),  # but for its salt
    "GET /v1/receipts/{receipt_id}/proof": Rule(KEY, 409),  # public, once it is in a batch
    "GET /v1/attribution/{receipt_id}": Rule(KEY, 200),  # as the receipt
    "GET /v1/usage": Rule(KEY),
    # Money
    "GET /v1/channels": Rule(KEY),
    "GET /v1/channels/{channel}": Rule(KEY, 404),
    "POST /v1/channels/{channel}/vouchers": Rule(KEY, 404, VOUCHER),
    "POST /v1/deposits/prepare": Rule(SESSION),
    "POST /v1/deposits/relay": Rule(SESSION),
    "POST /v1/local-funds": Rule(SESSION),
    "POST /v1/sessions/prepare": Rule(SESSION),
    "POST /v1/sessions/relay": Rule(SESSION),
    "POST /v1/sessions/revoke/prepare": Rule(SESSION),
    "POST /v1/sessions/revoke/relay": Rule(SESSION),
    "POST /v1/moves/prepare": Rule(SESSION),
    "POST /v1/moves/relay": Rule(SESSION),
    "POST /v1/withdrawals/thaw/prepare": Rule(SESSION),
    "POST /v1/withdrawals/prepare": Rule(SESSION),
    "GET /v1/earnings": Rule(KEY),
    "GET /v1/earnings/entries": Rule(KEY),
    "GET /v1/earnings/entries/{receipt_id}": Rule(KEY, 409),  # public, once it is in a batch
    "GET /v1/earnings/summary": Rule(KEY),
    "POST /v1/claims/prepare": Rule(SESSION),
    "POST /v1/claims/relay": Rule(SESSION),
    "GET /v1/payouts": Rule(KEY),
    "POST /v1/payouts/prepare": Rule(SESSION),
    "POST /v1/payouts/relay": Rule(SESSION),
    "GET /v1/transactions": Rule(KEY),
    "GET /v1/transactions/{transaction_id}": Rule(KEY, 404),
    "GET /v1/transactions/{transaction_id}/events/stream": Rule(KEY, 404),
    # Registries
    "GET /v1/datanets": Rule(ANYONE),
    "POST /v1/datanets/prepare": Rule(SESSION),
    "GET /v1/datanets/{datanet}": Rule(ANYONE),
    "GET /v1/datanets/{datanet}/contributions": Rule(ANYONE),
    "POST /v1/datanets/{datanet}/contributions/{content_hash}/review/prepare": Rule(SESSION),
    "POST /v1/datanets/{datanet}/snapshots": Rule(SESSION, 403),
    "GET /v1/snapshots/{snapshot}": Rule(ANYONE),
    "GET /v1/snapshots/{snapshot}/manifest": Rule(ANYONE),
    "GET /v1/versions/{version}": Rule(ANYONE),
    "POST /v1/versions/prepare": Rule(SESSION),
    "POST /v1/versions/deprecate/prepare": Rule(SESSION),
    "GET /v1/operator": Rule(ANYONE),
    "GET /v1/operators": Rule(ANYONE),
    "GET /v1/operators/{operator}/batches": Rule(ANYONE),
    # Contributions and training
    "POST /v1/contributions": Rule(SESSION),
    "GET /v1/contributions": Rule(KEY),
    "GET /v1/contributions/{upload_id}": Rule(KEY, 404),
    "GET /v1/contributions/{upload_id}/defects": Rule(KEY, 404),
    "POST /v1/contributions/{upload_id}/typed-data": Rule(SESSION, 403),
    "POST /v1/contributions/{upload_id}/submit": Rule(SESSION, 404, {"signature": "0x" + "11" * 65}),
    "POST /v1/files": Rule(SESSION),
    "GET /v1/files": Rule(KEY),
    "GET /v1/files/{file_id}": Rule(KEY, 404),
    "GET /v1/files/{file_id}/content": Rule(KEY, 404),
    "DELETE /v1/files/{file_id}": Rule(SESSION, 404),
    "POST /v1/contributions/{upload_id}/withdraw": Rule(SESSION, 404),
    "OPTIONS /v1/transfers": Rule(ANYONE),
    "POST /v1/transfers": Rule(SESSION),
    "GET /v1/transfers": Rule(SESSION),
    "HEAD /v1/transfers/{transfer}": Rule(SESSION, 404, headers=PIECE),
    "PATCH /v1/transfers/{transfer}": Rule(SESSION, 404, headers=PIECE),
    "DELETE /v1/transfers/{transfer}": Rule(SESSION, 404, headers=PIECE),
    "POST /v1/fine_tuning/jobs": Rule(SESSION),
    "POST /v1/fine_tuning/jobs/estimate": Rule(SESSION),
    "GET /v1/fine_tuning/jobs": Rule(KEY),
    "GET /v1/fine_tuning/jobs/{job_id}": Rule(ANYONE),
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": Rule(SESSION, 403),
    "POST /v1/fine_tuning/jobs/{job_id}/registration/prepare": Rule(SESSION, 403, LISTING),
    "GET /v1/fine_tuning/jobs/{job_id}/events": Rule(ANYONE),
    "GET /v1/fine_tuning/jobs/{job_id}/events/stream": Rule(ANYONE),
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": Rule(ANYONE),
    "POST /v1/adapters": Rule(SESSION),
    "GET /v1/adapters": Rule(KEY),
    "GET /v1/adapters/{adapter_id}": Rule(KEY, 404),
    "GET /v1/adapters/{adapter_id}/events": Rule(KEY, 404),
    "POST /v1/adapters/{adapter_id}/cancel": Rule(SESSION, 404),
    "POST /v1/adapters/{adapter_id}/registration/prepare": Rule(SESSION, 404, LISTING),
    # Webhooks
    "GET /v1/webhook_event_types": Rule(ANYONE),
    "POST /v1/webhook_endpoints": Rule(SESSION),
    "GET /v1/webhook_endpoints": Rule(KEY),
    "GET /v1/webhook_endpoints/{webhook_endpoint_id}": Rule(KEY, 404),
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}": Rule(SESSION, 404),
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}/rotate_secret": Rule(SESSION, 404),
    "POST /v1/webhook_endpoints/{webhook_endpoint_id}/test": Rule(SESSION, 404, SAMPLE),
    "GET /v1/webhook_endpoints/{webhook_endpoint_id}/deliveries": Rule(KEY, 404),
    "DELETE /v1/webhook_endpoints/{webhook_endpoint_id}": Rule(SESSION, 404),
    # Votes
    "GET /v1/governance/power": Rule(KEY),
    "POST /v1/governance/delegate/prepare": Rule(SESSION),
    "GET /v1/governance/proposals": Rule(ANYONE),
    "POST /v1/governance/proposals/prepare": Rule(SESSION),
    "POST /v1/governance/parameters/prepare": Rule(SESSION),
    "GET /v1/governance/proposals/{proposal_id}": Rule(ANYONE),
    "POST /v1/governance/proposals/{proposal_id}/vote/prepare": Rule(SESSION),
    "POST /v1/governance/proposals/{proposal_id}/queue/prepare": Rule(SESSION),
    "POST /v1/governance/proposals/{proposal_id}/execute/prepare": Rule(SESSION),
    "DELETE /v1/auth/session": Rule(SESSION),  # last: it ends the session that calls it
}

PROPOSAL = Proposal(1, some_account("voter"), "Lower the fee", (), (), (), 1, 2, 0, 0, 0, 0, 1)


def recorded(index: int) -> Contribution:
    content, folder, licence = (some_hash(label) for label in ("content", "folder", "MIT"))
    return Contribution(DatanetId(7), index, some_account("x"), content, folder, licence, 1, True, 0, 1, 1)


def failed_transaction(api: Api) -> int:
    with api.installation.begin() as tx:
        number = tx.transactions.enqueue(api.installation.operator, "PaymentVault", "thaw", [], "failed")
        tx.transactions.mark_failed(number, {"error": "NothingToThaw"})
        tx.transactions.record_request(api.installation.payer.account, number)
    return number


def brought(api: Api) -> TrainingJob:
    services, account = api.installation.services, api.installation.payer.account
    files = {name: transferred(services.transfers, account, b"x") for name in MAX_BYTES}
    return services.imported_adapters.create(account, "MIT", files)


@pytest.fixture
def things(api: Api) -> dict[str, str]:
    """What paths name, all of it the payer's: a key, a receipt, an upload, a job that is over, ..."""
    view, payer = api.installation.view, api.installation.payer.account
    view.datanet_list.append(Datanet(DatanetId(7), payer, "docs", some_hash("description"), 4))
    view.proposal_list.append(PROPOSAL)
    view.recorded += [recorded(index) for index in range(4)]
    where = {"datanet": 7, "name": "letters", "licence": "MIT"}
    rows = b'{"prompt": "What is a?", "completion": "A letter."}\n'
    with api.http(api.session) as http:
        key = http.post("/v1/keys", json={"name": "spare"}).json()["key"]
        answer = http.post("/v1/completions", json={"model": "tiny", "prompt": "a"}).json()
        upload = http.post("/v1/contributions", params=where, content=rows).json()
        job = http.post("/v1/fine_tuning/jobs", json={"snapshot_id": some_hash("snapshot")}).json()
        http.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")
        hook = {"url": "http://127.0.0.1:1/", "name": "mine", "event_types": ["fine_tuning.job.failed"]}
        endpoint = http.post("/v1/webhook_endpoints", json=hook).json()
        transfer = http.post("/v1/transfers", headers=PIECE | {"upload-length": "1"}).json()
    return {
        "cid": api.installation.blobs.add_folder({"a.txt": b"kept"}),
        "key_id": key["id"],
        "model": "tiny",
        "receipt_id": answer["loraledger"]["receipt_id"],
        "channel": api.installation.channel,
        "transaction_id": str(failed_transaction(api)),
        "datanet": "7",
        "content_hash": some_hash("content"),
        "snapshot": some_hash("snapshot"),
        "version": some_hash("version"),
        "operator": api.installation.operator,
        "upload_id": upload["id"],
        "file_id": upload["id"],
        "transfer": transfer["id"],
        "job_id": job["id"],
        "adapter_id": brought(api).id,
        "proposal_id": "1",
        "webhook_endpoint_id": endpoint["id"],
    }


def responses(
    api: Api, things: dict[str, str], token: str | None, which: Callable[[Rule], bool]
) -> dict[str, httpx.Response]:
    """What the caller is answered, by route."""
    found = {}
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=api.url, headers=headers) as http:
        for route, rule in TABLE.items():
            if which(rule):
                method, path = route.split()
                body = rule.body if method == "POST" else None
                found[route] = http.request(method, path.format(**things), json=body, headers=rule.headers)
    return found


def statuses(
    api: Api, things: dict[str, str], token: str | None, which: Callable[[Rule], bool]
) -> dict[str, int]:
    found = {route: answer.status_code for route, answer in responses(api, things, token, which).items()}
    assert max(found.values()) < 500, found
    return found


UNLIMITED = {
    "GET /health": "load balancers and orchestrators ask it",
    "GET /ready": "likewise",
    "GET /metrics": "Prometheus asks it, with a token",
}


@pytest.mark.parametrize("token", [None, "llk_unknown"])
def test_what_strangers_send_counts_towards_a_limit(
    api: Api, things: dict[str, str], token: str | None
) -> None:
    found = responses(api, things, token, lambda _: True)
    counted = {route for route, each in found.items() if "x-ratelimit-remaining-requests" in each.headers}
    assert set(found) - counted == set(UNLIMITED)


def test_every_route_stands_in_the_table(server: tuple[FastAPI, str]) -> None:
    app = server[0]
    published = {f"{m.upper()} {path}" for path, methods in app.openapi()["paths"].items() for m in methods}
    unpublished = {f"GET {route.path}" for route in app.routes if hasattr(route, "path")}
    assert published | unpublished == set(TABLE)


def test_strangers_reach_what_is_for_anyone_alone(api: Api, things: dict[str, str]) -> None:
    refused = statuses(api, things, None, lambda rule: rule.caller != ANYONE)
    assert set(refused.values()) == {401}, refused
    served = statuses(api, things, None, lambda rule: rule.caller == ANYONE)
    assert served.pop("POST /v1/auth/refresh") == 401  # by the token in its body
    assert not set(served.values()) & {401, 403}, served


@pytest.mark.parametrize("token", ["llk_unknown", "lls_unknown", "unknown", "revoked", "expired"])
def test_a_token_that_is_none_opens_nothing(api: Api, things: dict[str, str], token: str) -> None:
    if token == "revoked":
        with api.http(api.session) as http:
            new = http.post("/v1/keys", json={"name": "short"}).json()
            http.delete(f"/v1/keys/{new['key']['id']}")
        token = new["secret"]
    if token == "expired":
        token = api.session
        api.installation.clock.pass_seconds(13 * 3600)
    refused = statuses(api, things, token, lambda rule: rule.caller != ANYONE)
    assert set(refused.values()) == {401}, refused


def test_an_api_key_reaches_nothing_that_spends_or_signs(api: Api, things: dict[str, str]) -> None:
    refused = statuses(api, things, api.key, lambda rule: rule.caller == SESSION)
    assert set(refused.values()) == {403}, refused
    served = statuses(api, things, api.key, lambda rule: rule.caller == KEY)
    assert not set(served.values()) & {401, 404}, served


def test_neither_a_key_nor_a_wallet_sees_the_operators_figures(api: Api, things: dict[str, str]) -> None:
    for token in (api.key, api.session):
        refused = statuses(api, things, token, lambda rule: rule.caller == OPERATOR)
        assert set(refused.values()) == {401}, refused
    served = statuses(api, things, METRICS_TOKEN, lambda rule: rule.caller == OPERATOR)
    assert served == {"GET /metrics": 200}


def test_the_operators_token_for_figures_opens_nothing_else(api: Api, things: dict[str, str]) -> None:
    refused = statuses(api, things, METRICS_TOKEN, lambda rule: rule.caller in {KEY, SESSION})
    assert set(refused.values()) == {401}, refused


def test_another_wallet_reaches_nothing_of_the_payers(api: Api, things: dict[str, str]) -> None:
    other = sign_in(api.url, some_key("another wallet"))
    found = statuses(api, things, other, lambda rule: rule.of_others is not None)
    assert found == {route: TABLE[route].of_others for route in found}
    assert len(found) > 8


def test_the_owner_is_refused_nothing(api: Api, things: dict[str, str]) -> None:
    found = statuses(
        api, things, sign_in(api.url, api.installation.payer), lambda rule: rule.caller != OPERATOR
    )
    found.pop("POST /v1/auth/refresh")
    assert not set(found.values()) & {401, 403}, found
    owned = {route: status for route, status in found.items() if TABLE[route].of_others}
    assert 404 not in owned.values(), owned


def test_an_api_key_cannot_have_a_wallets_answer_repeated(api: Api) -> None:
    """What was kept under an `Idempotency-Key` is for those who could have asked for it."""
    wanted = {"json": {"amount": "0"}, "headers": {"idempotency-key": "one"}}
    with api.http(api.session) as wallet, api.http(api.key) as key:
        assert wallet.post("/v1/withdrawals/thaw/prepare", **wanted).status_code == 200
        assert key.post("/v1/withdrawals/thaw/prepare", **wanted).status_code == 403


def test_another_wallet_cannot_have_an_answer_repeated(api: Api) -> None:
    wanted = {"json": {"model": "tiny", "prompt": "secret"}, "headers": {"idempotency-key": "one"}}
    with api.http() as payer, api.http(sign_in(api.url, some_key("another wallet"))) as other:
        assert payer.post("/v1/completions", **wanted).status_code == 200
        assert other.post("/v1/completions", **wanted).status_code == 402
