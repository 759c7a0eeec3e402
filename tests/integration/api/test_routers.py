"""Routers of contributions, registry, jobs, claims, governance and IPFS, on a real database and store."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from eth_account.messages import _hash_eip191_message, encode_typed_data

from backend.api.app import MAX_UPLOADS
from backend.domain.batch import Header, camel_case
from backend.domain.content import cid_digest
from backend.domain.disputes.witnesses import Fault
from backend.domain.governance import Proposal
from backend.domain.hashing import record_argument
from backend.domain.ids import DatanetId
from backend.domain.money import AMOUNT
from backend.domain.registries import Datanet, Operator
from backend.domain.settlement import BatchState, CommittedBatch, Conviction
from backend.domain.training import JobState
from backend.services.contribute.terms import TERMS_FILE, terms_file
from tests.integration.api.conftest import sign_in
from tests.support.fakes import some_key
from tests.support.market import some_account, some_demand, some_hash

if TYPE_CHECKING:
    from fastapi import FastAPI

    from backend.api.uploads import UploadSlots
    from tests.integration.api.conftest import Api

ROWS = b'{"prompt": "What is a?", "completion": "A letter."}\n'
WHERE = {"datanet": 7, "name": "letters", "licence": "MIT"}


@pytest.fixture(autouse=True)
def datanet(api: Api) -> None:
    known = Datanet(DatanetId(7), some_account("curator"), "docs", some_hash("description"), 4)
    api.installation.view.datanet_list.append(known)


def post(api: Api, path: str, status: int, **request: Any) -> Any:
    with api.http(api.session) as http:
        answer = http.post(path, **request)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_contribution_goes_from_upload_to_relay(api: Api) -> None:
    upload = post(api, "/v1/contributions", 201, params=WHERE, content=ROWS)
    assert (upload["state"], upload["report"]["num_rows"]) == ("draft", 1)
    path = f"/v1/contributions/{upload['id']}"
    typed = post(api, f"{path}/typed-data", 200)
    digest = _hash_eip191_message(encode_typed_data(full_message=typed))
    signature = api.installation.payer.sign(digest)
    submitted = post(api, f"{path}/submit", 202, json={"signature": signature})
    assert submitted["state"] == "submitted"
    with api.http() as http:
        sent = http.get(f"/v1/transactions/{submitted['transaction_id']}").json()
        block = http.get(f"/ipfs/{submitted['report']['cid']}?format=raw")
        car = http.get(f"/ipfs/{submitted['report']['cid']}", params={"format": "car"})
    assert (sent["state"], sent["function"]) == ("queued", "contributeWithSig")
    assert (block.status_code, block.headers["content-type"]) == (200, "application/vnd.ipld.raw")
    assert b"A letter." in car.content


def test_a_datanet_takes_the_licences_that_it_was_made_with(api: Api) -> None:
    terms = {"name": "permissive", "description": "# Docs", "licence": "mit or bsd-3-clause"}
    post(api, "/v1/datanets/prepare", 200, json=terms)
    files = {"README.md": b"# Docs", TERMS_FILE: terms_file("MIT OR BSD-3-Clause")}
    made = cid_digest(api.installation.blobs.folder_cid(files))
    api.installation.view.datanet_list.append(Datanet(DatanetId(9), some_account("x"), "permissive", made, 0))
    where = WHERE | {"datanet": 9}
    upload = post(api, "/v1/contributions", 201, params=where, content=ROWS)
    assert upload["report"]["datanet_licence"] == "MIT OR BSD-3-Clause"
    refused = post(api, "/v1/contributions", 400, params=where | {"licence": "GPL-3.0-only"}, content=ROWS)
    assert refused["error"]["code"] == "licence_conflict"
    assert refused["error"]["details"]["accepted"] == ["BSD-3-Clause", "MIT"]


def test_a_form_is_an_upload_too(api: Api) -> None:
    upload = post(api, "/v1/contributions", 201, params=WHERE, files={"file": ("rows.jsonl", ROWS)})
    assert upload["state"] == "draft"
    wrong = post(api, "/v1/contributions", 400, params=WHERE, files={"other": ("rows.jsonl", ROWS)})
    assert wrong["error"]["param"] == "file"


def test_an_unsound_upload_says_what_is_wrong_by_line(api: Api) -> None:
    upload = post(api, "/v1/contributions", 201, params=WHERE, content=ROWS + b"nope\n")
    assert upload["state"] == "invalid"
    assert [(d["line"], d["code"]) for d in upload["report"]["defects"]] == [(2, "malformed_json")]
    with api.http(api.session) as http:
        lines = http.get(f"/v1/contributions/{upload['id']}/defects").text.splitlines()
    assert json.loads(lines[0])["line"] == 2


def test_uploads_that_are_empty_or_too_large_are_refused(api: Api) -> None:
    assert post(api, "/v1/contributions", 400, params=WHERE, content=b"")["error"]["code"] == "empty_upload"
    large = ROWS * 40
    assert (
        post(api, "/v1/contributions", 413, params=WHERE, content=large)["error"]["code"]
        == "upload_too_large"
    )
    body = (large for _ in range(100))  # above what the server reads at all
    assert post(api, "/v1/contributions", 413, params=WHERE, content=body)["error"]["type"]


def test_uploads_are_their_contributors_own(api: Api) -> None:
    upload = post(api, "/v1/contributions", 201, params=WHERE, content=ROWS)
    with api.http(api.session) as http:
        assert [u["id"] for u in http.get("/v1/contributions").json()["data"]] == [upload["id"]]
    with api.http(sign_in(api.url, some_key("curious"))) as http:
        assert http.get("/v1/contributions").json()["data"] == []
        assert http.get(f"/v1/contributions/{upload['id']}").status_code == 404
        assert http.post(f"/v1/contributions/{upload['id']}/typed-data").status_code == 403


def test_datanets_and_snapshots_are_public(api: Api) -> None:
    snapshot = some_hash("snapshot")
    (listed,) = httpx.get(f"{api.url}/v1/datanets").json()["data"]
    assert httpx.get(f"{api.url}/v1/datanets/7").json() == listed
    assert httpx.get(f"{api.url}/v1/datanets/8").status_code == 404
    assert httpx.get(f"{api.url}/v1/datanets/7/contributions").json()["data"] == []
    assert httpx.get(f"{api.url}/v1/snapshots/{snapshot}").json()["accepted"] == [0, 1, 3]


def test_a_version_is_public_and_its_id_is_the_hash_of_its_record(api: Api) -> None:
    version = api.installation.version
    shown = httpx.get(f"{api.url}/v1/versions/{version}").json()
    assert shown == {"id": version, "record": record_argument(api.installation.view.version(version))}
    missing = httpx.get(f"{api.url}/v1/versions/{some_hash('unknown')}")
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "version")


def test_operators_are_public_with_their_stake(api: Api) -> None:
    account, key = some_account("operator"), some_account("key")
    api.installation.view.operator_list.append(Operator(account, "https://one", (key,), 7_000_000))
    (listed,) = httpx.get(f"{api.url}/v1/operators").json()["data"]
    card = httpx.get(f"{api.url}/v1/operator").json()
    assert card["account"] == account
    assert listed == {
        "account": account,
        "endpoint": "https://one",
        "keys": [key],
        "retired_keys": {},
        "stake": {"micro_units": "7000000", "usd": "0.000007"},
        "card": card,
        "latency_ms": None,
        "uptime_ppm": None,
    }


def a_batch(number: int, **changes: Any) -> CommittedBatch:
    words = dict.fromkeys(Header.__annotations__, 0) | {"operator": some_account("operator")}
    hashes = {name: some_hash(name) for name, kind in Header.__annotations__.items() if kind == "Hash32"}
    chosen = {"number": number, "total": 7, "final_at": 90, "final_block": 8, "slash_up_to": 5}
    header = Header(**(words | hashes | chosen))
    fields = {camel_case(name): getattr(header, name) for name in Header.__annotations__}
    base = CommittedBatch(
        header.operator, number, header.hash, fields, BatchState.COMMITTED, some_hash("tx"), 4
    )
    return replace(base, **changes)


def test_batches_are_public_and_void_ones_say_why(api: Api) -> None:
    view, operator = api.installation.view, some_account("operator")
    conviction = Conviction(2, some_hash("x"), "proveBadReceipt", None, Fault.PRICE, 3, some_hash("proof"), 9)
    void = a_batch(2, state=BatchState.VOID, conviction=conviction, is_refunded=True)
    held = a_batch(2, hash=some_hash("held"))
    view.committed += [a_batch(1, state=BatchState.FINAL), void, held]
    view.demanded.append(some_demand(operator, held.hash))

    url = f"{api.url}/v1/operators/{operator}/batches"
    page = httpx.get(url, params={"limit": 2}).json()
    newest, fallen = page["data"]
    assert (newest["state"], newest["open_demands"], newest["conviction"]) == ("committed", 1, None)
    assert (newest["demand_deadline"], fallen["demand_deadline"]) == (2_000, None)
    assert (newest["total"], newest["final_at"], newest["final_block"]) == (AMOUNT.render(7), 90, 8)
    assert newest["slash_up_to"] == AMOUNT.render(5)
    assert (fallen["state"], fallen["open_demands"], fallen["is_refunded"]) == ("void", 0, True)
    assert fallen["conviction"] == {
        "first": 2,
        "convicted": some_hash("x"),
        "proof": "proveBadReceipt",
        "fault": "price",
        "receipt": 3,
        "challenger": None,
        "tx_hash": some_hash("proof"),
        "block_number": 9,
    }
    rest = httpx.get(url, params={"limit": 2, "after": page["next_cursor"]}).json()
    assert [batch["state"] for batch in rest["data"]] == ["final"]
    assert rest["next_cursor"] is None
    assert httpx.get(f"{api.url}/v1/operators/{some_account('nobody')}/batches").json()["data"] == []
    assert httpx.get(f"{api.url}/v1/operators/somebody/batches").status_code == 400


def test_a_snapshot_is_frozen_by_the_operator_for_the_datanets_creator(api: Api) -> None:
    refused = post(api, "/v1/datanets/7/snapshots", 403, json={})
    assert "DatasetRegistry.freeze" in refused["error"]["message"]
    own = replace(api.installation.view.datanet_list.pop(), creator=api.installation.payer.account)
    api.installation.view.datanet_list.append(own)
    frozen = post(api, "/v1/datanets/7/snapshots", 202, json={})
    assert frozen["snapshot_id"] == some_hash(f"preview {(7, 4)}")
    again = post(api, "/v1/datanets/7/snapshots", 202, json={"count": 4})
    assert again == frozen


def test_datanets_and_versions_are_prepared_for_the_creators_wallet(api: Api) -> None:
    prepared = post(api, "/v1/datanets/prepare", 200, json={"name": "docs", "description": "# Docs"})
    assert prepared["decoded"]["function"] == "createDatanet"
    wrong = post(api, "/v1/datanets/prepare", 400, json={"name": "Not A Name"})
    assert wrong["error"]["param"] == "name"
    unknown = post(api, "/v1/datanets/prepare", 400, json={"name": "docs", "licence": "my own"})
    assert unknown["error"]["code"] == "unknown_licence"
    record = {
        "name": "docs-helper",
        "adapter_digest": some_hash("a"),
        "cid_digest": some_hash("c"),
        "base_model": some_hash("base model"),
        "snapshots": [some_hash("snapshot")],
        "prompt_price": "0.000001",
        "completion_price": {"micro_units_per_token": "2"},
        "operator_ppm": 100_000,
        "creator_ppm": 100_000,
    }
    assert post(api, "/v1/versions/prepare", 200, json=record)["decoded"]["function"] == "register"


def test_a_job_is_made_watched_and_cancelled(api: Api) -> None:
    wrong = {"snapshot_id": some_hash("snapshot"), "hyperparameters": {"rank": 0}}
    assert post(api, "/v1/fine_tuning/jobs", 400, json=wrong)["error"]["param"] == "rank"
    wanted = {"snapshot_id": some_hash("snapshot"), "hyperparameters": {"rank": 4}}
    job = post(api, "/v1/fine_tuning/jobs", 201, json=wanted)
    assert (job["status"], job["hyperparameters"]["rank"]) == ("validating_files", 4)
    path = f"/v1/fine_tuning/jobs/{job['id']}"
    assert post(api, f"{path}/cancel", 200)["status"] == JobState.CANCELLED
    with api.http() as http:
        events = http.get(f"{path}/events").json()["data"]
        stream = http.get(f"{path}/events/stream")
        resumed = http.get(f"{path}/events/stream", headers={"last-event-id": str(events[0]["seq"])})
        assert http.get("/v1/fine_tuning/jobs/none/events/stream").status_code == 404
        assert http.get(path).json()["id"] == http.get("/v1/fine_tuning/jobs").json()["data"][0]["id"]
    assert stream.headers["content-type"].startswith("text/event-stream")
    data = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")]
    assert data == events
    assert resumed.text.count("data: ") == len(events) - 1


def test_earnings_are_shown_and_claimed(api: Api) -> None:
    with api.http() as http:
        (earning,) = http.get("/v1/earnings").json()["data"]
    assert earning["unclaimed"] == earning["claimable"] == AMOUNT.render(45_000_000)
    claim = {"operator": earning["operator"]}
    assert post(api, "/v1/claims/prepare", 200, json=claim)["decoded"]["function"] == "claim"
    assert post(api, "/v1/claims/relay", 202, json=claim)["transaction_id"] == 7


def test_the_operator_does_not_pay_for_claims_of_next_to_nothing(api: Api) -> None:
    claim = {"operator": some_account("operator"), "account": some_account("earned little")}
    assert post(api, "/v1/claims/prepare", 200, json=claim)["decoded"]["function"] == "claim"
    assert post(api, "/v1/claims/relay", 409, json=claim)["error"]["code"] == "nothing_to_claim"


def test_an_unfinished_job_cannot_be_registered(api: Api) -> None:
    job = post(api, "/v1/fine_tuning/jobs", 201, json={"snapshot_id": some_hash("snapshot")})
    path = f"/v1/fine_tuning/jobs/{job['id']}/registration/prepare"
    listing = {
        "name": "docs",
        "prompt_price": "1",
        "completion_price": "2",
        "operator_ppm": 0,
        "creator_ppm": 0,
    }
    assert post(api, path, 409, json=listing)["error"]["code"] == "not_published"
    assert post(api, path, 400, json=listing | {"name": "Not A Name"})["error"]["param"] == "name"


def test_every_step_of_a_vote_is_prepared(api: Api) -> None:
    with api.http() as http:
        power = http.get("/v1/governance/power").json()
    assert (power["balance"], power["votes"]) == ("5", "0")
    assert post(api, "/v1/governance/delegate/prepare", 200, json={})["decoded"]["function"] == "delegate"
    call = {"contract": "Parameters", "function": "pauseCommits", "args": [1000]}
    wanted = {"calls": [call], "description": "Lower the fee"}
    proposed = post(api, "/v1/governance/proposals/prepare", 200, json=wanted)
    assert proposed["proposal_id"] == str(1 << 255)
    change = {"changes": {"feePpm": 1000}}
    changed = post(api, "/v1/governance/parameters/prepare", 200, json=change)
    assert changed["proposal_id"] == str(1 << 255)
    proposal = Proposal(
        id=1 << 255,
        proposer=some_account("voter"),
        description="Lower the fee",
        targets=(some_account("Parameters"),),
        values=(0,),
        calldatas=("0x",),
        vote_starts_at=1,
        vote_ends_at=2,
        votes_against=0,
        votes_for=10**24,
        votes_abstain=0,
        executable_at=0,
        block_number=1,
    )
    api.installation.view.proposal_list.append(proposal)
    path = f"/v1/governance/proposals/{1 << 255}"
    (shown,) = httpx.get(f"{api.url}/v1/governance/proposals").json()["data"]
    assert (shown["state"], shown["votes_for"]) == ("active", str(10**24))
    assert httpx.get(f"{api.url}{path}").json() == shown
    ballot = {"ballot": "for", "reason": "cheap"}
    assert post(api, f"{path}/vote/prepare", 200, json=ballot)["decoded"]["function"] == "castVoteWithReason"
    assert post(api, f"{path}/queue/prepare", 200)["decoded"]["function"] == "queue"
    assert post(api, f"{path}/execute/prepare", 200)["decoded"]["function"] == "execute"
    assert httpx.get(f"{api.url}/v1/governance/proposals/12").status_code == 404
    assert httpx.get(f"{api.url}/v1/governance/proposals/x").status_code == 400


def test_the_gateway_serves_only_what_can_be_verified(api: Api) -> None:
    with api.http() as http:
        absent = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
        assert http.get(f"/ipfs/{absent}?format=raw").status_code == 404
        assert http.get(f"/ipfs/{absent}?format=car").status_code == 404
        assert http.get(f"/ipfs/{absent}").status_code == 400
        assert http.get("/ipfs/nonsense?format=raw").status_code == 400


def test_the_gateway_asks_nobody_else_for_blocks(api: Api) -> None:
    with api.http() as http:
        cid = api.installation.blobs.add_folder({"a.txt": b"kept"})
        assert http.get(f"/ipfs/{cid}?format=raw").status_code == 200
        api.installation.elsewhere.add(cid)
        for format_ in ("raw", "car"):
            answer = http.get(f"/ipfs/{cid}", params={"format": format_})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "content_missing")


def test_uploads_have_slots_of_their_own(api: Api, server: tuple[FastAPI, str]) -> None:
    slots: UploadSlots = server[0].state.upload_slots
    with ExitStack() as others:
        for number in range(MAX_UPLOADS):
            others.enter_context(slots.take(f"account {number}", f"address {number}"))
        busy = post(api, "/v1/contributions", 503, params=WHERE, content=ROWS)
        assert busy["error"]["code"] == "uploads_busy"
    assert post(api, "/v1/contributions", 201, params=WHERE, content=ROWS)["state"] == "draft"


def test_a_wallet_has_a_quarter_of_the_slots_of_uploads(api: Api, server: tuple[FastAPI, str]) -> None:
    slots: UploadSlots = server[0].state.upload_slots
    with ExitStack() as own:
        for number in range(MAX_UPLOADS // 4):
            own.enter_context(slots.take(api.installation.payer.account, f"address {number}"))
        busy = post(api, "/v1/contributions", 503, params=WHERE, content=ROWS)
    assert busy["error"]["code"] == "uploads_busy"
    assert f"has {MAX_UPLOADS // 4} uploads running" in busy["error"]["message"]


def test_a_curators_decision_is_prepared_for_the_curators_wallet(api: Api) -> None:
    path = f"/v1/datanets/7/contributions/{some_hash('content')}/review/prepare"
    assert post(api, path, 404, json={"reason": 4})["error"]["param"] == "content_hash"
    assert post(api, path, 400, json={"reason": 99})["error"]["param"] == "reason"
