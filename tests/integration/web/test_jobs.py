"""The creator's way through the pages: estimate, training with a live curve, the result, cancelling."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import expect

from backend.domain.adapter_files import MAX_BYTES
from backend.domain.ids import DatanetId, VersionId
from backend.domain.registries import Datanet
from backend.domain.screening import Likeness, ScreeningReport
from backend.domain.training import Step
from backend.services.train.leases import Leases
from tests.integration.api.test_adapters import published
from tests.integration.api.test_fine_tuning import NUM_ROWS, SNAPSHOT
from tests.integration.web.test_sign_in import signed_in
from tests.support.market import some_account, some_hash
from tests.support.page_guide import Guide
from tests.unit.workers.support import DATASET, RESULT

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.integration.api.conftest import Api


@pytest.fixture
def leases(api: Api) -> Leases:
    api.installation.record_rows(NUM_ROWS)
    known = Datanet(DatanetId(7), some_account("curator"), "docs", some_hash("terms"), 4)
    api.installation.view.datanet_list.append(known)
    return Leases(api.installation.db, api.installation.payments, api.installation.clock)


def start_job(guide: Guide, page: Page, api: Api) -> str:
    """As the guide says; returns the job's id."""
    page.goto(f"{api.url}/d/7")
    guide.step("Train on it").click()
    page.get_by_label("Epochs", exact=True).fill("1")
    page.get_by_label("Tokens of a row").fill("51")
    guide.step("Estimate cost and time").click()
    expect(page.locator("#estimate mark").first).to_be_visible()
    expect(page.locator("#estimate")).to_contain_text("is reserved until the job ends")
    guide.step("Start training").click()
    page.wait_for_url("**/jobs/ftjob-*")
    return page.url.rpartition("/")[2]


def test_a_job_is_estimated_started_followed_and_ends_with_a_result(
    page: Page, api: Api, as_payer: None, leases: Leases
) -> None:
    guide = Guide(page, "Training an adapter")
    job = start_job(guide, page, api)
    expect(page.get_by_text("appears with the first step")).to_be_visible()
    held = leases.acquire(job, Step.VALIDATE)
    assert held is not None
    leases.complete_validation(held, DATASET)
    held = leases.acquire(job, Step.TRAIN)
    assert held is not None
    leases.record_event(held, "eval", {"model": "base", "loss": 3.0, "perplexity": 20.0})
    for step in (1, 2):
        pace = {"tokens_per_second": 400.0, "eta_seconds": 90.0, "num_steps": 4}
        leases.record_event(held, "progress", {"step": step, "loss": 3.0 / step, **pace})
    expect(page.get_by_role("heading", name="Step 2 of 4")).to_be_visible()
    expect(page.get_by_text("about 2 minutes left")).to_be_visible()
    curve = page.locator("#live svg[role=img]")
    expect(curve).to_have_attribute("aria-label", "Loss by step: training 1.500, held out 3.000")
    leases.complete_training(held, replace(RESULT, metrics={**RESULT.metrics, "num_charged_tokens": 60}))
    held = leases.acquire(job, Step.PUBLISH)
    assert held is not None
    nearest = Likeness(VersionId(some_hash("other")), some_account("other"), 0.12, 0)
    report = ScreeningReport(None, nearest, 1, 0)
    leases.record_event(held, "screening", {"message": report.message, **asdict(report)})
    leases.complete_publication(held, api.installation.blobs.add_folder({"README.md": b"an adapter"}))
    expect(page.get_by_role("heading", name="Against its base")).to_be_visible()
    expect(page.get_by_role("link", name="receipt")).to_be_visible()
    expect(page.get_by_role("region", name="What screening found")).to_contain_text("cosine 0.12")
    page.get_by_label("Name").fill("poems")
    guide.step("Register").click()
    guide.end()
    proposal = page.locator("#transaction")
    expect(proposal.get_by_role("heading")).to_have_text("Register poems")
    expect(proposal).to_contain_text("Contributors get50 %")


@pytest.mark.deep
def test_a_refused_estimate_is_explained_and_a_failed_refresh_changes_nothing(
    page: Page, api: Api, as_payer: None, leases: Leases, reports: list[str]
) -> None:
    page.goto(f"{api.url}/jobs?snapshot={SNAPSHOT}")
    page.get_by_label("Rank").fill("1000")
    page.get_by_role("button", name="Estimate cost and time").click()
    expect(page.locator("#estimate [role=alert]")).to_contain_text("rank must be between 1 and 128")
    page.get_by_label("Rank").fill("4")
    page.get_by_role("button", name="Estimate cost and time").click()
    expect(page.locator("#estimate mark").first).to_be_visible()
    page.get_by_label("Tokens of a row").fill("51")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url("**/jobs/ftjob-*")
    page.route("**/jobs/ftjob-*", lambda route: route.fulfill(status=503, body="away"))
    held = leases.acquire(page.url.rpartition("/")[2], Step.VALIDATE)
    assert held is not None
    with page.expect_response(lambda one: one.status == 503):
        leases.complete_validation(held, DATASET)
    expect(page.get_by_text("appears with the first step")).to_be_visible()
    page.unroute("**/jobs/ftjob-*")
    held = leases.acquire(page.url.rpartition("/")[2], Step.TRAIN)
    assert held is not None
    pace = {"tokens_per_second": 400.0, "eta_seconds": 90.0, "num_steps": 4}
    leases.record_event(held, "progress", {"step": 1, "loss": 3.0, **pace})
    expect(page.get_by_role("heading", name="Step 1 of 4")).to_be_visible()
    reports.clear()  # the refusals


def test_a_cancelled_job_costs_nothing(page: Page, api: Api, as_payer: None, leases: Leases) -> None:
    start_job(Guide(page, "Training an adapter"), page, api)
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.get_by_text("nothing was charged")).to_be_visible()
    page.goto(f"{api.url}/jobs")
    expect(page.locator("#jobs + table tbody tr")).to_contain_text("cancelled")


def bring_adapter(page: Page) -> None:
    """Upload the files of an adapter from the page of jobs."""
    files: list[Any] = [
        {"name": name, "mimeType": "application/octet-stream", "buffer": name.encode()} for name in MAX_BYTES
    ]
    page.get_by_label("Both files").set_input_files(files)
    page.get_by_label("Licence (SPDX)").fill("Apache-2.0")
    page.get_by_label("Description").fill("Brought along.")
    page.get_by_role("button", name="Upload and screen").click()


def test_an_adapter_from_elsewhere_is_uploaded_screened_and_registered(
    page: Page, api: Api, as_payer: None
) -> None:
    page.goto(f"{api.url}/jobs")
    bring_adapter(page)
    page.wait_for_url("**/jobs/imports/adapter-*")
    expect(page.get_by_role("heading", name="Being read and screened")).to_be_visible()
    published(api, page.url.rpartition("/")[2])
    page.get_by_label("Name").fill("mine")
    page.get_by_role("button", name="Register", exact=True).click()
    expect(page.locator("#transaction").get_by_role("heading")).to_have_text("Register mine")
    expect(page.get_by_role("button", name="Send with the wallet")).to_be_visible()


def test_a_job_is_estimated_without_a_script(api: Api, leases: Leases) -> None:
    with signed_in(api) as client:
        token = re.search(r'name="form_token" value="([^"]+)"', client.get("/jobs").text)
        assert token is not None
        form = {"form_token": token[1], "snapshot": SNAPSHOT, "model": "", "rank": "4", "packing": "true"}
        page = client.post("/jobs/estimate", data=form)
        assert (page.status_code, "What it takes" in page.text) == (200, True)
        assert "at least one epoch" not in page.text
        page = client.post("/jobs/estimate", data={**form, "steps": "1"})
        assert "for 90 tokens (at least one epoch is charged)" in page.text
        refused = client.post("/jobs/estimate", data={**form, "snapshot": "0x1"})
        assert (refused.status_code, "A job trains on a snapshot" in refused.text) == (400, True)


def test_a_double_click_starts_one_job(page: Page, api: Api, as_payer: None, leases: Leases) -> None:
    page.goto(f"{api.url}/jobs?snapshot={SNAPSHOT}")
    page.get_by_role("button", name="Start training").dblclick()
    page.wait_for_url("**/jobs/ftjob-*")
    assert len(api.installation.services.training.list()) == 1


def test_a_form_that_is_sent_again_leads_to_the_same_job(api: Api, leases: Leases) -> None:
    with signed_in(api) as client:

        def rendered() -> str:
            token = re.search(r'name="form_token" value="([^"]+)"', client.get("/jobs").text)
            assert token is not None
            return token[1]

        def send(token: str, **changes: str) -> str:
            form = {"form_token": token, "snapshot": SNAPSHOT, "model": "", "rank": "4"} | changes
            return client.post("/jobs", data=form).headers["location"]

        first, second = rendered(), rendered()
        job = send(first)
        assert send(first) == job
        others = {send(first, rank="8"), send(second)}
        assert len(others - {job}) == len(api.installation.services.training.list()) - 1 == 2


def test_signed_out_visitors_learn_what_to_do(api: Api) -> None:
    assert "Sign in to train" in httpx.get(f"{api.url}/jobs").text
    assert httpx.get(f"{api.url}/jobs/ftjob-none").status_code == 404
