"""Lists the tests of each named attack on the protocol; their names contain the attack's name.

Invariants 4 and 6 (no proof convicts a valid batch; every invalid batch has a proof) are properties in
`tests/integration/settlement`, the others in `tests/contracts/Invariants*.t.sol`.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CONTRACTS = "tests/contracts"

ATTACKS = {
    "replayed or stale voucher": (
        "AttacksPayers.t.sol::test_a_replayed_voucher_collects_nothing_twice",
        "AttacksPayers.t.sol::test_a_stale_voucher_adds_nothing_to_a_newer_one",
    ),
    "withdraw before collection": (
        "AttacksPayers.t.sol::test_withdraw_before_collection_leaves_the_served_amount",
        "AttacksPayers.t.sol::test_withdraw_before_collection_by_an_old_thaw",
        "tests/unit/backend/services/channels/test_admission.py::test_thawing_money_does_not_count",
    ),
    "revoke after use": (
        "AttacksPayers.t.sol::test_revoke_after_use_does_not_take_back_what_was_served",
        "AttacksPayers.t.sol::test_revoke_after_use_ends_collection_after_the_thaw",
    ),
    "withheld grant": (
        "AttacksPayers.t.sol::test_a_withheld_grant_is_refused_after_its_keys_revocation",
        "AttacksPayers.t.sol::test_a_withheld_grant_with_its_deposit_is_refused_after_its_keys_revocation",
    ),
    "over-signing to several operators": (
        "AttacksPayers.t.sol::test_over_signing_to_several_operators_takes_nothing_from_the_first",
    ),
    "overcharge": ("AttacksOperators.t.sol::test_overcharge_is_convicted",),
    "double-listed receipt": ("AttacksOperators.t.sol::test_a_double_listed_receipt_is_convicted",),
    "hidden preimage": ("AttacksOperators.t.sol::test_a_hidden_preimage_is_convicted_by_silence",),
    "unopenable parent": ("AttacksOperators.t.sol::test_an_unopenable_parent_is_convicted_by_silence",),
    "surplus in a spare leaf": (
        "AttacksOperators.t.sol::test_a_surplus_in_a_spare_leaf_is_convicted_by_the_shortfall",
    ),
    "false attribution": ("AttacksOperators.t.sol::test_false_attribution_to_another_account_is_convicted",),
    "over-allocated balances": (
        "AttacksOperators.t.sol::test_over_allocated_balances_are_convicted",
        "Claim.t.sol::test_the_payout_limit_protects_pending_amounts",
    ),
    "parameter race": ("AttacksGovernance.t.sol::test_a_parameter_race_reverts_and_reprices_nothing",),
    "slash reduced by claims": ("SlashOrder.t.sol::test_finding2_slash_is_not_reduced_by_claims",),
    "final money hostage": (
        "Claim.t.sol::test_finding5_final_money_is_no_hostage_of_a_later_batch",
        "Claim.t.sol::test_finding5_finalising_ahead_censors_no_claim",
    ),
    "two wrong batches slash once": (
        "SlashOrder.t.sol::test_finding7_two_wrong_batches_slash_once",
        "SlashOrder.t.sol::test_any_conviction_slashes_the_same",
        "SlashOrder.t.sol::test_an_operator_cannot_prepay_the_slash_of_an_earlier_wrong_batch",
        "SlashOrder.t.sol::test_a_conviction_costs_the_required_cover",
    ),
    "stolen receipt key": (
        "RetireReceiptKey.t.sol::test_finding4_a_stolen_receipt_key_convicts_no_batch_after_its_retirement",
    ),
    "flood of demands": (
        "AttacksDisputes.t.sol::test_finding1_a_flood_of_demands_does_not_convict_and_pays_the_operator",
        "AttacksDisputes.t.sol::test_finding1_a_flood_costs_its_square",
        "AttacksDisputes.t.sol::test_finding1_demands_delay_finality_by_no_more_than_the_bound",
        "AttacksDisputes.t.sol::test_finding1_answering_oneself_pays_the_operator",
    ),
    "operator that fills its own queue": (
        "AttacksDisputes.t.sol::test_finding1_an_operator_that_fills_its_own_queue_pays_for_it",
        "AttacksDisputes.t.sol::test_finding1_an_operator_that_fills_its_own_queue_takes_no_time_from_its_challenger",
    ),
    "paused token": (
        "AttacksDisputes.t.sol::test_finding6_a_paused_token_convicts_no_right_batch",
        "AttacksDisputes.t.sol::test_finding6_a_paused_token_stops_no_conviction",
    ),
    "last-second answer": (
        "AttacksDisputes.t.sol::test_a_last_second_answer_leaves_time_for_the_proof",
        "AttacksDisputes.t.sol::test_a_last_second_answer_a_second_later_is_refused",
    ),
    "challenger front-run": (
        "AttacksDisputes.t.sol::test_a_challenger_front_run_at_its_reservation_is_not_stopped",
        "AttacksDisputes.t.sol::test_a_copy_of_a_pending_proof_neither_earns_nor_convicts",
        "Reserve.t.sol::test_without_reservation_nothing_is_convicted",
        "Reserve.t.sol::test_a_reservation_in_the_same_block_is_too_late",
    ),
    "self-accusation": (
        "AttacksDisputes.t.sol::test_self_accusation_loses_most_of_the_slash",
        "AttacksDisputes.t.sol::test_self_accusation_by_not_answering_loses_most_of_the_slash_too",
    ),
    "void, refund and recommit": (
        "AttacksOperators.t.sol::test_void_refund_and_recommit_restores_everything_exactly",
        "AttacksOperators.t.sol::test_void_and_recommit_of_the_same_number_inherits_no_demand",
        "AttacksOperators.t.sol::test_void_and_recommit_of_the_same_batch_in_one_block_inherits_no_demand",
        "AttacksOperators.t.sol::test_a_proof_replayed_after_recommit_convicts_nothing",
    ),
    "pot raid across operators": (
        "AttacksOperators.t.sol::test_pot_raid_across_operators_reaches_nothing",
        "AttacksOperators.t.sol::test_pot_raid_by_a_forged_collector_reaches_nothing",
    ),
    "copied data under another wallet": (
        "AttacksProvenance.t.sol::test_copied_data_under_another_wallet_is_refused",
        "AttacksProvenance.t.sol::test_copied_data_under_another_wallet_earns_nothing",
    ),
    "copied or perturbed adapter": (
        "AttacksProvenance.t.sol::test_a_copied_adapter_leaves_the_original_its_id_and_date",
        "AttacksProvenance.t.sol::test_a_perturbed_adapter_without_snapshots_does_not_keep_the_contributors_part",
    ),
    "warm start dropping its parents": (
        "AttacksProvenance.t.sol::test_a_warm_start_dropping_its_parents_cannot_claim_to_pay_them",
    ),
    "reorg after serving": (
        "AttacksPayers.t.sol::test_reorg_after_serving_is_recovered_by_the_same_voucher",
        "tests/unit/backend/chain/indexer/test_following.py::test_only_confirmed_blocks_are_read",
        "tests/integration/chain/test_reorg.py::test_a_reorg_ends_in_the_state_of_a_fresh_replay",
    ),
    "flash-loaned votes": ("AttacksGovernance.t.sol::test_flash_loaned_votes_neither_propose_nor_count",),
    "late swing": ("AttacksGovernance.t.sol::test_a_late_swing_leaves_time_for_an_answer",),
    "swapped grant in a relayed deposit": (
        "AttacksPayers.t.sol::test_swapped_grant_in_a_relayed_deposit_is_refused",
    ),
    "callback that traps funds": (
        "AttacksToken.t.sol::test_a_callback_that_traps_funds_traps_its_own_only",
        "AttacksToken.t.sol::test_a_callback_that_traps_funds_stops_no_slash",
    ),
    "fee-on-transfer token": ("AttacksToken.t.sol::test_a_fee_on_transfer_token_credits_nothing",),
    "signature malleability": ("AttacksPayers.t.sol::test_signature_malleability_is_refused",),
    "cross-chain replay": (
        "AttacksPayers.t.sol::test_cross_chain_replay_of_a_voucher_is_refused",
        "AttacksDisputes.t.sol::test_cross_chain_replay_of_a_receipt_is_no_equivocation",
    ),
    "cross-contract replay": (
        "AttacksPayers.t.sol::test_cross_contract_replay_of_a_voucher_is_refused",
        "AttacksPayers.t.sol::test_cross_contract_replay_of_a_grant_in_another_channel_is_refused",
        "AttacksDisputes.t.sol::test_cross_contract_replay_of_a_receipt_is_no_equivocation",
    ),
    "reentrancy through the token": (
        "AttacksToken.t.sol::test_reentrancy_through_the_token_withdraws_nothing_twice",
        "AttacksToken.t.sol::test_reentrancy_through_the_token_credits_no_deposit_twice",
    ),
    "merkle second preimage": (
        "AttacksOperators.t.sol::test_merkle_second_preimage_of_a_node_opens_as_no_leaf",
    ),
    "sum overflow": ("AttacksOperators.t.sol::test_sum_overflow_is_refused",),
    "wrong depth": ("AttacksOperators.t.sol::test_wrong_depth_is_refused",),
    "pause until payers have left": (
        "AttacksGovernance.t.sol::test_pause_until_payers_have_left_ends_before_they_can",
        "AttacksGovernance.t.sol::test_pause_until_payers_have_left_stops_no_payer",
    ),
}


def words(text: str) -> set[str]:
    """Return the words of a name, without articles, conjunctions and prepositions."""
    return set(re.findall(r"[a-z]+", text.lower())) - {"a", "and", "in", "is", "of", "or", "the"}


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_has_its_tests(attack: str) -> None:
    for place in ATTACKS[attack]:
        path, name = place.split("::")
        file = ROOT / (path if "/" in path else f"{CONTRACTS}/{path}")
        assert re.search(rf"^\s*(function|def) {name}\(", file.read_text(), re.MULTILINE), place


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_test_names_contain_the_attack(attack: str) -> None:
    names = [place.split("::")[1].replace("_", " ") for place in ATTACKS[attack]]
    found = set().union(*map(words, names))
    assert words(attack) <= found, words(attack) - found
