from __future__ import annotations

from workers.training.card import _attribution

METRICS = {"distilled_agreement": 0.614, "distilled_error_agreement": 0.5, "num_kept_out": 64, "num_steps": 3}


def test_the_card_states_agreements_what_they_are_and_whose_statement() -> None:
    text = "\n".join(_attribution(METRICS))
    assert "| distilled-1 | 0.61 |" in text
    assert "| distilled-error-1 | 0.50 |" in text
    assert "64 answers that this adapter generated" in text
    assert "not LDS" in text
    assert "`loraledger attribution verify`\nrecomputes it" in text


def test_a_card_of_an_adapter_without_distilled_methods_states_none() -> None:
    assert _attribution({"num_steps": 3}) == []
