"""Fine-tuning jobs and imported adapters of the creator: options, estimate, progress, registration."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request, status
from fastapi.concurrency import run_in_threadpool
from markupsafe import Markup
from pydantic import Field
from starlette.responses import RedirectResponse, Response

from backend.api.deps import ServicesDep
from backend.api.paging import Paging
from backend.api.routers.adapters import get_adapter, list_adapters
from backend.api.routers.fine_tuning import create_job, estimate_job, get_job, list_jobs
from backend.api.schemas.common import PriceInput
from backend.api.schemas.fine_tuning import CreateJobRequest, JobEventView
from backend.api.services import Services
from backend.domain.money import PPM
from backend.domain.screening import ScreeningReport
from backend.domain.training import TrainingConfig
from backend.services.train.options import RANGES
from backend.services.train.publication import Listing
from backend.web.formats import percent, price, short_hash
from backend.web.forms import PageForm
from backend.web.proposal import Proposal, Way, propose
from backend.web.rendering import render
from backend.web.route import PageRoute
from backend.web.visitor import FORM_FIELD, SignedInDep, Visitor, VisitorDep, rendered_form

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.domain.training import JobEvent

router = APIRouter(prefix="/jobs", route_class=PageRoute)
ROWS = 50
MAIN_OPTIONS = ("epochs", "rank", "alpha", "learning_rate", "max_length", "batch_size", "seed")
CHOICES = {
    "variant": ("lora", "rslora", "dora"),
    "scheduler": ("cosine", "linear", "constant"),
    "loss_on": ("completions", "all"),
    "packing": ("false", "true"),
}
OTHER_OPTIONS = ("dropout", "warmup_fraction", "steps", "eval_fraction", "checkpoint_steps", "early_stopping")

_NOT_OPTIONS = {FORM_FIELD, "snapshot", "model"}


async def read_form(request: Request) -> CreateJobRequest:
    """The job of a form. Fields that are left empty have their defaults; numbers are written as in JSON."""
    form = {name: str(value).strip() for name, value in (await request.form()).items()}
    options = {name: value for name, value in form.items() if value and name not in _NOT_OPTIONS}
    return CreateJobRequest(
        training_file=form.get("snapshot", ""),
        model=form.get("model") or None,
        hyperparameters={name: _parse(value) for name, value in options.items()},
    )


class RegistrationForm(PageForm):
    """Shares in percent."""

    name: str
    prompt_price: PriceInput
    completion_price: PriceInput
    operator_share: Annotated[Decimal, Field(ge=0, le=100, decimal_places=4)]
    creator_share: Annotated[Decimal, Field(ge=0, le=100, decimal_places=4)]
    accepts_worse: bool = False
    accepts_copy: bool = False

    def listing(self) -> Listing:
        ppm = (int(share * PPM / 100) for share in (self.operator_share, self.creator_share))
        return Listing(self.name, self.prompt_price, self.completion_price, *ppm)


JobForm = Annotated[CreateJobRequest, Depends(read_form)]


@router.get("")
def show_jobs(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    snapshot: Annotated[str, Query(max_length=66)] = "",
    model: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    jobs, adapters = [], []
    if visitor is not None:
        jobs = list_jobs(services, visitor.caller, limit=ROWS).data
        adapters = list_adapters(services, visitor.caller, Paging(None, ROWS)).data
    return render(
        request,
        "jobs.html",
        jobs=jobs,
        adapters=adapters,
        snapshot=snapshot,
        model=model,
        bases=[base.name for base in services.catalogue.bases],
        defaults=TrainingConfig(),
        ranges=RANGES,
        main_options=MAIN_OPTIONS,
        other_options=OTHER_OPTIONS,
        choices=CHOICES,
    )


@router.post("/estimate")
async def estimate(body: JobForm, request: Request, services: ServicesDep, visitor: SignedInDep) -> Response:
    found = await run_in_threadpool(estimate_job, body, services, visitor.caller)
    return render(request, "estimate.html", "estimate", estimate=found)


@router.post("")
async def create(body: JobForm, request: Request, services: ServicesDep, visitor: SignedInDep) -> Response:
    """A form that is sent twice creates one job; with other options, for example after the browser's *Back*,
    another one.
    """
    wanted = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    key = f"{rendered_form(request)} {wanted}"
    job = await run_in_threadpool(create_job, body, services, visitor.caller, key)
    return RedirectResponse(f"/jobs/{job.id}", status.HTTP_303_SEE_OTHER)


@router.get("/{job_id}")
def show_job(job_id: str, request: Request, services: ServicesDep, visitor: VisitorDep) -> Response:
    """The page; for scripts what changes of it while the job runs."""
    job = get_job(job_id, services)
    progress = services.training.progress(job_id)
    return render(
        request,
        "job.html",
        "live",
        job=job,
        progress=progress,
        events=_views(progress.milestones),
        report=_report(progress.milestones),
        is_own=visitor is not None and visitor.account == job.creator,
        is_over=job.finished_at is not None,
    )


@router.get("/imports/{adapter_id}")
def show_import(adapter_id: str, request: Request, services: ServicesDep, visitor: SignedInDep) -> Response:
    """The page of an adapter that was trained elsewhere; for scripts what changes of it."""
    adapter = get_adapter(adapter_id, services, visitor.caller)
    events = services.imported_adapters.events(adapter_id, visitor.account)
    return render(
        request,
        "import.html",
        "live",
        adapter=adapter,
        events=_views(one for one in events if one.kind != "working"),
        report=_report(events),
    )


@router.post("/{job_id}/registration")
def propose_job_registration(
    job_id: str,
    form: Annotated[RegistrationForm, Form()],
    request: Request,
    services: ServicesDep,
    visitor: SignedInDep,
) -> Response:
    return _propose_registration(request, services, visitor, job_id, form)


@router.post("/imports/{adapter_id}/registration")
def propose_import_registration(
    adapter_id: str,
    form: Annotated[RegistrationForm, Form()],
    request: Request,
    services: ServicesDep,
    visitor: SignedInDep,
) -> Response:
    services.imported_adapters.get(adapter_id, visitor.account)
    return _propose_registration(request, services, visitor, adapter_id, form)


def _views(events: Iterable[JobEvent]) -> list[JobEventView]:
    """Each state once: another event of the same state tells that another worker began the step."""
    shown: list[JobEventView] = []
    state = None
    for event in events:
        if event.kind != "state" or event.data["state"] != state:
            shown.append(JobEventView.of(event))
        if event.kind == "state":
            state = event.data["state"]
    return shown


def _report(events: Iterable[JobEvent]) -> ScreeningReport | None:
    """The newest comparison with registered versions; None before it."""
    found = [event.data for event in events if event.kind == "screening"]
    return ScreeningReport.load(found[-1]) if found else None


def _propose_registration(
    request: Request, services: Services, visitor: Visitor, job_id: str, form: RegistrationForm
) -> Response:
    listing, account = form.listing(), visitor.account
    prepared = services.publication.prepare(
        job_id, account, listing, accepts_worse=form.accepts_worse, accepts_copy=form.accepts_copy
    )
    prices = Markup("{} in, {} out").format(price(listing.prompt_price), price(listing.completion_price))
    terms = [
        ("Name", f"{account}/{listing.name}"),
        ("Per million tokens", prices),
        ("Operators get", percent(listing.operator_ppm)),
        ("You get", percent(listing.creator_ppm)),
        ("Contributors get", percent(PPM - listing.operator_ppm - listing.creator_ppm)),
        ("Version", short_hash(prepared.version_id)),
    ]
    effect = "Every operator of the base model can sell it from then on. It can be deprecated, not changed."
    way = Way.send(prepared.transaction)
    return propose(request, Proposal(f"Register {listing.name}", terms, effect, [way]))


def _parse(value: str) -> Any:
    """A number, boolean or list as JSON; anything else is a text."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
