"""Contents of a scrape, with and without faults."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from backend.db.unit_of_work import Database
from backend.installation.metrics import STATE, MetricsPage, load_metrics_token
from backend.settings import Settings
from tests.support.market import some_account
from tests.support.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from pathlib import Path

UNBOUNDED = {"adapter", "model", "payer", "account", "channel", "key", "path", "version", "request_id"}
"""Labels of which there could be any number of values."""


def page_of(database: Database) -> MetricsPage:
    return MetricsPage(database, {"tiny": ScriptedEngine()}, some_account("operator"))


async def scraped(page: MetricsPage) -> dict[str, list[Any]]:
    text = (await page.render()).decode()
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "a family that comes twice is refused by Prometheus"
    return {family.name: family.samples for family in families}


def up(found: dict[str, list[Any]]) -> dict[str, float]:
    return {sample.labels["part"]: sample.value for sample in found["loraledger_up"]}


async def test_all_sources_are_in_one_scrape(sqlite_database: Database) -> None:
    with sqlite_database.begin() as tx:
        tx.transactions.enqueue(some_account("operator"), "Settlement", "commit", [], "one")
    found = await scraped(page_of(sqlite_database))
    assert up(found) == {
        "database": 1,
        "engine": 1,
    }
    assert found["loraledger_scripted_engine"][0].value == 1
    assert found["loraledger_unsettled_units"][0].value == 0
    assert "loraledger_reorgs" in found
    waiting = {s.labels["state"]: s.value for s in found["loraledger_pending_transactions"]}
    assert waiting == {"queued": 1, "sent": 0, "mined": 0}


async def test_unavailable_parts_are_reported_and_the_rest_is_rendered(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    engine = ScriptedEngine()
    engine.is_gone = True
    database = Database.open(f"sqlite:///{tmp_path}/a.db")
    found = await scraped(MetricsPage(database, {"tiny": engine}, some_account("operator")))
    assert up(found) == {
        "database": 0,
        "engine": 0,
    }
    assert not set(STATE) & set(found), "old figures would look like good ones"
    assert "loraledger_http_requests" in found


async def test_each_base_is_up_or_down_and_labels_its_metrics(sqlite_database: Database) -> None:
    engines = {"tiny": ScriptedEngine(), "large": ScriptedEngine()}
    page = MetricsPage(sqlite_database, engines, some_account("operator"))
    found = await scraped(page)
    assert [one.labels for one in found["loraledger_scripted_engine"]] == [
        {"base": "tiny"},
        {"base": "large"},
    ]
    engines["large"].is_gone = True
    found = await scraped(page)
    assert {one.labels["base"]: one.value for one in found["loraledger_base_up"]} == {"tiny": 1, "large": 0}
    assert up(found)["engine"] == 0
    assert [one.labels for one in found["loraledger_scripted_engine"]] == [{"base": "tiny"}]


async def test_no_label_has_unbounded_values(sqlite_database: Database) -> None:
    found = await scraped(page_of(sqlite_database))
    found.pop("python_info", None)  # the library's own, where nothing is shared
    for samples in found.values():
        for sample in samples:
            assert not UNBOUNDED & set(sample.labels), sample


def test_the_token_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    token = load_metrics_token(settings)
    assert token == load_metrics_token(settings)
    assert token.startswith("llm_")
    assert len(token) > 40
    assert stat.S_IMODE((tmp_path / "metrics-token").stat().st_mode) == 0o600


def test_a_setting_names_the_tokens_file(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("mine\n")
    assert load_metrics_token(Settings(home=tmp_path, metrics_token_file=tmp_path / "own")) == "mine"
