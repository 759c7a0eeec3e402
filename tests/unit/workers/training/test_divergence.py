from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.services.train.options import parse_config
from tests.unit.workers.training.support import CONFIG, examples
from workers.training.fit import NonFiniteLoss, fit, lora_model
from workers.training.run import _train
from workers.training.spec import ADAPTER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(
    tiny_base: Path, tmp_path: Path
) -> None:
    config = parse_config(CONFIG)
    model = lora_model(tiny_base, config)

    def poison(kind: str, data: Mapping[str, Any]) -> None:
        if kind == "progress" and data["step"] == 4:
            next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))

    with pytest.raises(NonFiniteLoss) as diverged:
        fit(model, examples(tiny_base), config, tmp_path / "checkpoints", poison)
    assert diverged.value.details == {"step": 5}
    assert "step 5" in diverged.value.message
    # The last checkpoint is from before the poison, so nothing infectious is left to resume from.
    assert [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e6])
def test_an_adapter_that_diverged_is_refused_by_its_held_out_loss(
    make_job: Any, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    losses = iter([4.0, 4.0, loss])
    monkeypatch.setattr("workers.training.job.mean_loss", lambda *_: next(losses))
    spec, folder = make_job(epochs=0.01)
    spec.save(folder)
    messages: list[tuple[str, Mapping[str, Any]]] = []
    assert _train(folder, lambda kind, data: messages.append((kind, data))) == 1
    kind, error = messages[-1]
    assert (kind, error["code"], error["model"]) == ("failed", "non_finite_loss", "adapter")
    assert "learning rate" in error["message"]
    assert not (folder / ADAPTER).exists()
