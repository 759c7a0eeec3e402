"""Gradients of each row's own loss with respect to LoRA's B matrices, sketched; one backward pass a batch.

A LoRA module computes y = W x + s B A x, so that a row's loss has the gradient dB = s sum over tokens
dy (A x)^T: both factors pass by in the batch's forward and backward pass, and no row needs one of its own. A
is left out: where B is small its gradients are. Only activations are differentiated, no weights.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.nn import functional

from workers.training.evaluate import batches_by_length, predictions
from workers.training.pulse import Pulse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from workers.training.pulse import Emit
    from workers.training.rows import Example
    from workers.training.sketch import CountSketch

BATCH_TOKENS = 1024
"""Padding included: activations of every layer are kept for the backward pass."""
_INNER, _OUTER = "lora_A.default", "lora_B.default"


def row_sketches(
    model: Any, examples: Sequence[Example], sketch: CountSketch, pad_token_id: int, emit: Emit
) -> Iterator[tuple[Sequence[Example], Tensor]]:
    """(rows, their sketched gradients [rows, size] fp32), batch by batch, the longest rows first.

    `model` is a PEFT model, whose weights stay as they are. The loss of a row is the sum over its trained
    tokens, so that a long answer weighs more, as it does in training. The same build, threads and rows give
    the same bits.
    """
    pulse = Pulse(emit, "gradients", len(examples))
    model.eval()
    with _frozen(model), _Taps(model, sketch) as taps:
        for rows in batches_by_length(examples, BATCH_TOKENS):
            taps.sums = sketch.zeros(len(rows))
            _summed_loss(model, rows, pad_token_id).backward()  # type: ignore[no-untyped-call]
            yield rows, taps.sums.T.contiguous()
            pulse.advance(len(rows))


def _summed_loss(model: Any, rows: Sequence[Example], pad_token_id: int) -> Tensor:
    """Cross entropy in nats over all trained tokens."""
    found = predictions(model, rows, pad_token_id)
    logits = model.get_output_embeddings()(found.states)
    return functional.cross_entropy(logits.float(), found.labels, reduction="sum")


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """No weight gets a gradient: what is differentiated begins at the embeddings' output."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    embeddings = model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
    for weight in trainable:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        hook.remove()
        for weight in trainable:
            weight.requires_grad_(True)


class _Taps:
    """Reads A x and s dy at every LoRA module, and adds their product to `sums` while it is there."""

    def __init__(self, model: Any, sketch: CountSketch) -> None:
        self._sketch = sketch
        self._inner: dict[str, Tensor] = {}
        self.sums = sketch.zeros(0)
        self._hooks = []
        for path, module in model.named_modules():
            name = path.rpartition(".lora_")[0]
            if path.endswith(_INNER):
                self._hooks.append(module.register_forward_hook(self._keep_inner(name)))
            elif path.endswith(_OUTER):
                self._hooks.append(module.register_forward_hook(self._watch_outer(name)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep_inner(self, name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            if (
                output.requires_grad
            ):  # DoRA also passes the identity, for the norm of BA: that is nobody's row
                self._inner[name] = output.detach()

        return hook

    def _watch_outer(self, name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda gradient: self._take(name, gradient))  # type: ignore[no-untyped-call]

        return hook

    def _take(self, name: str, outer: Tensor) -> None:
        """`outer` [rows, tokens, out]; padding has no part in any loss, so it is zero there."""
        inner = self._inner.pop(name)  # [rows, tokens, rank]
        gradients = torch.einsum("nto,ntr->orn", outer.float(), inner.float())
        self._sketch.add(self.sums, name, gradients.reshape(-1, gradients.shape[-1]))
