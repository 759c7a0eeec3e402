"""Gradients of each row's own loss with respect to LoRA's B matrices, sketched; one backward pass a batch.

A LoRA module computes y = W x + s B A x, so that a row's loss has the gradient dB = s sum over tokens
dy (A x)^T: both factors pass by in the batch's forward and backward pass, and no row needs one of its own. A
is left out: where B is small its gradients are. So is what a row has of the chat template's preamble behind
its first token, which is read once for all rows. Neither are weights differentiated nor is the adapter
computed apart: it is in W for the while, so that a module costs one product, not three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from peft.tuners.lora import LoraLayer
from torch.nn import functional

from workers.training.evaluate import batches_by_length, predictions
from workers.training.packing import row_places
from workers.training.preamble import read_preamble
from workers.training.progress import Pulse
from workers.training.rows import own_positions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from workers.training.preamble import Preamble
    from workers.training.progress import Emit
    from workers.training.rows import Example
    from workers.training.sketch import CountSketch

BATCH_TOKENS = 1024
"""Activations of every layer are kept for the backward pass."""
_ADAPTER = "default"


def row_sketches(
    model: Any, examples: Sequence[Example], preamble: Sequence[int], sketch: CountSketch, emit: Emit
) -> Iterator[tuple[Sequence[Example], Tensor]]:
    """(rows, their sketched gradients [rows, size] fp32), batch by batch, the longest rows first.

    `model` is a PEFT model, whose weights stay as they are. The loss of a row is the sum over its trained
    tokens, so that a long answer weighs more, as it does in training. `preamble`: the token ids that
    conversations begin with, behind the first of which no gradients are taken. The same build, threads and
    rows give the same bits.
    """
    pulse = Pulse(emit, "gradients", len(examples))
    model.eval()
    with _Taps(model, sketch) as taps, model.disable_adapter():
        read = read_preamble(model, preamble)
        for rows in batches_by_length(examples, BATCH_TOKENS, preamble):
            yield rows, taps.sketches(rows, read)
            pulse.advance(len(rows))


def _backward(model: Any, rows: Sequence[Example], preamble: Preamble | None) -> None:
    """Of the cross entropy in nats, summed over all trained tokens.

    Its gradient at the states is W^T (p - y), W the head: a loss that is not needed itself is not computed.
    """
    found = predictions(model, rows, preamble)
    head = model.get_output_embeddings()
    with torch.no_grad():
        errors = head(found.states).softmax(dim=1)
        errors[torch.arange(len(errors)), found.labels] -= 1
        gradient = errors @ head.weight
    found.states.backward(gradient)  # type: ignore[no-untyped-call]


class _Taps:
    """Puts the adapter into the base's weights, reads x and dy there, and adds dB to the rows' sums."""

    def __init__(self, model: Any, sketch: CountSketch) -> None:
        self._model = model
        self._sketch = sketch
        self._sums = sketch.zeros(0)
        self._places = self._is_real = torch.empty(0)
        self._kept: list[tuple[Any, Tensor]] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for name, layer in self._model.named_modules():
            if isinstance(layer, LoraLayer):
                self._tap(name, layer)
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        for weight, kept in self._kept:
            weight.data = kept

    def sketches(self, rows: Sequence[Example], preamble: Preamble | None) -> Tensor:
        """[rows, size] fp32."""
        left_out = preamble.token_ids if preamble else ()
        lengths = torch.tensor([len(own_positions(row, left_out)) for row in rows], device=self._model.device)
        self._places, self._is_real = row_places(lengths)
        self._sums = self._sketch.zeros(len(rows))
        _backward(self._model, rows, preamble)
        return self._sums

    @torch.no_grad()
    def _tap(self, name: str, layer: Any) -> None:
        weight = layer.base_layer.weight
        inner = layer.lora_A[_ADAPTER].weight.to(weight.dtype)
        updated = weight.float() + layer.get_delta_weight(_ADAPTER).float()
        stretch = None
        if layer.use_dora[_ADAPTER]:  # y = m / |W + s B A| (W + s B A) x, whose norm is nobody's gradient
            stretch = layer.lora_magnitude_vector[_ADAPTER].weight / updated.norm(dim=1)
            updated *= stretch.unsqueeze(1)
        self._kept.append((weight, weight.data))
        weight.data = updated.to(weight.dtype)
        scaling = layer.scaling[_ADAPTER]

        def take(shrunk: Tensor, gradient: Tensor) -> None:
            self._take(name, shrunk, gradient if stretch is None else gradient * stretch)

        def hook(_module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            if not torch.is_grad_enabled():  # the preamble's
                return
            output.requires_grad_()  # in the first layer: no weight is differentiated, so nothing does before
            shrunk = functional.linear(inputs[0].detach(), inner) * scaling
            output.register_hook(lambda gradient: take(shrunk, gradient))  # type: ignore[no-untyped-call]

        self._hooks.append(layer.base_layer.register_forward_hook(hook))

    def _take(self, name: str, inner: Tensor, outer: Tensor) -> None:
        """`inner` [1, tokens, rank] is s A x, `outer` [1, tokens, out] dy."""
        by_row = self._by_row(inner) * self._is_real.unsqueeze(2)
        products = by_row.transpose(1, 2) @ self._by_row(outer.to(inner.dtype))  # [rows, rank, out]
        self._sketch.add(self._sums, name, products.float())

    def _by_row(self, tokens: Tensor) -> Tensor:
        """[rows, longest, size] of [1, tokens, size]."""
        taken = tokens[0].index_select(0, self._places.flatten())
        return taken.view(*self._places.shape, tokens.shape[2])
