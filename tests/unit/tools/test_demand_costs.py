"""Bonds cover the gas of the worst answers, and the page states what campaigns cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.deployment.profiles import BOUNDS, ETHEREUM, GWEI, LOCAL
from tools.demand_costs import (
    BASE_FEES,
    SNAPSHOT,
    bonds,
    constants,
    flood,
    flood_sizes,
    own_queue,
    two_waves,
    wave_size,
    with_table,
)

GAS = json.loads(SNAPSHOT.read_text())
PAGE = Path(__file__).parents[3] / "docs" / "trust-model.md"


def test_the_bond_is_priced_at_the_worst_answers() -> None:
    terms = constants()
    for measured, stated in (("answer_receipt_worst", "RECEIPT_GAS"), ("answer_lookup_worst", "LOOKUP_GAS")):
        assert GAS[measured] <= terms[stated] <= 1.35 * GAS[measured]


def test_one_leaf_costs_at_most_200_000_gas_to_demand_and_a_million_to_answer() -> None:
    assert GAS["demand_in_50"] < GAS["demand"] <= 200_000
    assert GAS["answer_receipt_worst"] <= 1_000_000


@pytest.mark.parametrize("count", flood_sizes())
@pytest.mark.parametrize("fee", BASE_FEES)
def test_finding1_a_flood_costs_the_attacker_more_than_the_operator(count: int, fee: int) -> None:
    costs = flood(GAS, count, fee * GWEI)
    assert costs.challenger > 5 * costs.operator_gas
    assert costs.credited > 3 * costs.operator_gas


@pytest.mark.parametrize("fee", BASE_FEES)
def test_finding1_two_waves_cost_the_attacker_more_than_the_operator(fee: int) -> None:
    costs = two_waves(GAS, fee * GWEI)
    assert costs.challenger > 5 * costs.operator_gas
    assert costs.credited > 3 * costs.operator_gas


def test_equal_waves_cost_least() -> None:
    count = wave_size()
    costs = [bonds(1, first, GWEI) + bonds(1, 2 * count - first, GWEI) for first in range(0, 2 * count, 50)]
    assert min(costs) >= 2 * bonds(1, count, GWEI)


@pytest.mark.parametrize("fee", BASE_FEES)
def test_finding1_an_operator_that_fills_its_own_queue_loses_a_quarter_of_the_bonds(fee: int) -> None:
    costs = own_queue(GAS, 576, fee * GWEI)
    assert costs.challenger + costs.operator_gas - costs.credited > costs.bonds // 4


def test_the_floor_pays_for_the_answer_at_three_times_the_profiles_base_fee() -> None:
    for bounds in BOUNDS[LOCAL + 1 :]:
        floor = constants()["RECEIPT_GAS"] * bounds["bondFee"] * constants()["FACTOR"]
        assert floor * 3 // 4 == 3 * constants()["RECEIPT_GAS"] * bounds["bondFee"]
    assert BOUNDS[ETHEREUM]["bondFee"] == GWEI


def test_the_page_states_the_computed_costs() -> None:
    assert with_table(PAGE.read_text()) == PAGE.read_text()
