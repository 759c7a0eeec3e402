"""Alerts and dashboard name only what the code exposes, and the page names them all."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import backend.metrics  # noqa: F401 - their names
from backend.api.middleware import POLLED
from backend.domain.figures import Figures, Pending
from backend.domain.live_agreement import LiveAgreement
from backend.installation.metrics import StateCollector
from inference.protocol import Status
from inference.server.metrics import EngineMetrics

FOLDER = Path(__file__).parents[3] / "deployments" / "monitoring"
NAME = re.compile(r"(?:vllm|loraledger)[:_][a-z0-9_]+")
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def full() -> Figures:
    """Figures with a value for every metric, so that every name is exposed."""
    some = Pending(1, 5.0)
    special: dict[str, Any] = {"unsettled": some, "unsigned": some, "outbox": some}
    special |= {"transactions": {"queued": some}, "jobs": {"running": 1}}
    special["live_agreement"] = LiveAgreement(2, 1, 0, 500_000)
    plain = {each.name: 1 for each in fields(Figures) if each.name not in special}
    return Figures(**special, **plain)


def exposed() -> dict[str, str]:
    """Every sample's name, and its family."""
    state = CollectorRegistry()
    state.register(StateCollector(full(), {"database": True}, {"base": True}))
    engine = EngineMetrics("tiny").render(Status("", "tiny", "", 1, [], [], 0, 0, 0, 0, 1, 0))
    text = generate_latest(REGISTRY).decode() + generate_latest(state).decode() + engine
    found = text_string_to_metric_families(text)
    families = [f for f in found if NAME.match(f.name) and not f.name.endswith("_created")]
    return {f.name + suffix: f.name for f in families for suffix in SUFFIXES[f.type]}


def named(expressions: list[str]) -> set[str]:
    return {name for text in expressions for name in NAME.findall(text)}


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def test_every_alert_is_about_a_metric_that_is_there() -> None:
    assert named([rule["expr"] for rule in alerts()]) <= set(exposed())
    assert len({rule["alert"] for rule in alerts()}) == len(alerts()) > 10


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert {"summary", "action"} <= set(rule["annotations"])


def expression(alert: str) -> str:
    return next(str(rule["expr"]) for rule in alerts() if rule["alert"] == alert)


def panels() -> list[str]:
    found = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in found for target in panel["targets"]]


def test_nothing_is_compared_across_targets_without_an_aggregation() -> None:
    """Each machine is a target and has the same series. `on()` makes them many-to-many, which is an error, or
    takes one engine for another.
    """
    everything = [*(rule["expr"] for rule in alerts()), *panels()]
    assert not [text for text in everything if "on()" in text]
    behind = "max(loraledger_chain_head_block) - max(loraledger_indexed_block)"
    assert behind in panels()
    assert expression("LoraledgerIndexerBehind").startswith(behind)


def test_failed_transactions_are_compared_with_those_of_every_instance_an_hour_ago() -> None:
    """Counters survive restarts, and a pod that is replaced has another address."""
    now, ago = expression("LoraledgerTransactionsFail").split(" or ")[1].split(" unless ")
    assert now.startswith("(sum by (function, step) (")
    assert ago.startswith("sum by (function, step) (")


def test_probes_neither_dilute_nor_cause_the_alert_about_server_errors() -> None:
    excluded = re.findall(r'route!~"([^"]+)"', expression("LoraledgerServerErrors"))
    assert [set(routes.split("|")) for routes in excluded] == [POLLED, POLLED]


def test_answers_fail_by_codes_that_the_api_has() -> None:
    failed, again = re.findall(r'code=~"([^"]+)"', expression("LoraledgerAnswersFail"))
    assert failed == again
    page = (FOLDER.parents[1] / "docs" / "api.md").read_text()
    for code in failed.split("|"):
        assert re.search(rf"^\| `{code}` \| 50[03] \|", page, re.MULTILINE), code


def test_jobs_that_their_process_fails_are_alerted_of_where_the_operator_may_be_the_cause() -> None:
    assert 'outcome="job_failed", step="train"' in expression("LoraledgerTrainingFails")


def test_every_panel_shows_a_metric_that_is_there() -> None:
    shown = named(panels())
    assert shown <= set(exposed())
    assert len(shown) > 25


def test_the_page_on_operation_explains_every_metric() -> None:
    page = (FOLDER.parents[1] / "docs" / "operating.md").read_text()
    missing = {family for family in exposed().values() if f"`{family}`" not in page}
    assert not missing
    assert named(re.findall(r"`([^`]+)`", page)) <= set(exposed()) | set(exposed().values())
