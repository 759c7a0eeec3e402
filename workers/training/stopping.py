"""Early stopping by the loss on rows that are neither trained on nor used for the final evaluation."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from backend.disk.files import replacing
from workers.training.evaluate import mean_loss
from workers.training.spec import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workers.training.progress import Emit
    from workers.training.rows import Example

BEST_FILE = "best.safetensors"
LOSSES_FILE = "losses.json"


def evaluation_interval(rows: Sequence[Example], step_tokens: Sequence[int], checkpoint_steps: int) -> int:
    """Steps between two evaluations on `rows`: the fewest checkpoints in which training has as many tokens as
    the rows. A forward pass takes a third of a step, so evaluation costs at most a third of training.
    """
    num_tokens = sum(len(row.token_ids) for row in rows)
    between_checkpoints = checkpoint_steps * sum(step_tokens) / len(step_tokens)
    return checkpoint_steps * math.ceil(num_tokens / between_checkpoints)


class EarlyStop(TrainerCallback):
    """Evaluates the adapter every `interval` steps and at the end, saves the best one in `folder`, and ends
    training after `patience` evaluations without a lower loss.

    A resumed run loads the losses up to its checkpoint with `resume`, so it stops at the same step.
    """

    def __init__(
        self, patience: int, interval: int, rows: Sequence[Example], folder: Path, emit: Emit
    ) -> None:
        """`interval`: from `evaluation_interval`, so that training ends at a checkpoint."""
        self._patience = patience
        self._interval = interval
        self._rows = rows
        self._folder = folder
        self._emit = emit
        self._losses: dict[int, float] = {}

    @property
    def best_step(self) -> int:
        return min(self._losses, key=lambda step: (self._losses[step], step))

    @property
    def last_step(self) -> int:
        return max(self._losses)

    def restore_best(self, model: Any) -> None:
        set_peft_model_state_dict(model, load_file(self._folder / BEST_FILE))

    def resume(self, step: int) -> None:
        """Load the losses of an earlier run up to `step`, from which training resumes."""
        path = self._folder / LOSSES_FILE
        if path.exists():
            saved = {int(at): loss for at, loss in json.loads(path.read_bytes()).items()}
            self._losses = {at: loss for at, loss in saved.items() if at <= step}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        step = state.global_step
        if not self.is_over and (step % self._interval == 0 or step == state.max_steps):
            self._measure(model, step)
        control.should_training_stop |= self.is_over

    @property
    def is_over(self) -> bool:
        """Whether training has ended before its last step."""
        since_best = [step for step in self._losses if step > self.best_step]
        return len(since_best) >= self._patience

    def _measure(self, model: Any, step: int) -> None:
        loss = mean_loss(model, self._rows, self._emit)
        self._losses[step] = loss if math.isfinite(loss) else math.inf  # never the best one
        if self.best_step == step:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / BEST_FILE) as draft:
                save_file(get_peft_model_state_dict(model), draft)
        write_json(self._folder / LOSSES_FILE, self._losses)
        data = {"model": f"step-{step}", "loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        self._emit("eval", data)
