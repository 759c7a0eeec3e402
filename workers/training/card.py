"""Renders the model card of an adapter folder."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from backend.domain.attribution import AGREEMENTS, GRADIENT_METHOD, NUM_KEPT_OUT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workers.training.spec import ImportSpec, TrainingSpec


def versions() -> dict[str, str]:
    """Versions that the weights depend on, besides data, configuration and seed."""
    libraries = {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}
    return {"python": platform.python_version(), "machine": platform.machine(), **libraries}


@dataclass(frozen=True, slots=True)
class Card:
    spec: TrainingSpec
    base_name: str
    base_digest: str
    metrics: Mapping[str, float]
    statistics: Mapping[str, float]
    """Statistics of the update, see `backend.domain.screening.Inspection`."""
    versions: Mapping[str, str]

    def render(self) -> str:
        """Markdown with the front matter that model hubs read."""
        return (
            "\n".join(
                (
                    *_front_matter(self.base_name, self.spec.licences),
                    *self._measured(),
                    *_attribution(self.metrics),
                    *_update(self.statistics),
                    *self._made_from(),
                    *self._reproduce(),
                )
            )
            + "\n"
        )

    def _measured(self) -> list[str]:
        m = self.metrics
        rows = (
            ("base model", m["eval_loss_base"], m["perplexity_base"], m["general_loss_base"]),
            (
                "with this adapter",
                m["eval_loss_adapter"],
                m["perplexity_adapter"],
                m["general_loss_adapter"],
            ),
        )
        return [
            f"Trained on {m['num_train_rows']} rows, whose contributors its answers pay. On held-out rows",
            f"its loss is {m['eval_loss_adapter']:.2f}; the base model's is {m['eval_loss_base']:.2f}.",
            "",
            f"Evaluated on {m['num_eval_rows']} held-out rows, {self._shared_rows()},",
            "and on a fixed set of general questions, where a loss above the base model's shows forgetting.",
            "Losses are means in nats per answer token.",
            "",
            "| model | loss | perplexity | loss on the general set |",
            "| --- | --- | --- | --- |",
            *(
                f"| {name} | {loss:.4f} | {perplexity:.2f} | {general:.4f} |"
                for name, loss, perplexity, general in rows
            ),
            "",
        ]

    def _shared_rows(self) -> str:
        number = self.metrics["num_shared_eval_rows"] or "none"
        parents = "" if self.spec.config.parent is None else ", apart from those of its parent"
        return f"{number} of which share a source or a question with a training row{parents}"

    def _made_from(self) -> list[str]:
        m = self.metrics
        return [
            "## Made from",
            "",
            f"- base model: sha-256 `{self.base_digest}`",
            *([f"- adapter: version `{parent}`"] if (parent := self.spec.config.parent) else []),
            *(f"- snapshot: `{snapshot}`" for snapshot in self.spec.snapshots),
            f"- licences of the contributions: {', '.join(self.spec.licences) or 'not stated'}",
            f"- {m['num_train_rows']} rows; {m['num_trained_tokens']} tokens in {m['num_steps']} steps",
            "",
        ]

    def _reproduce(self) -> list[str]:
        config, libraries = asdict(self.spec.config), dict(self.versions)
        return [
            "## Reproduce",
            "",
            "The same snapshot, options, library versions, processor and thread count give the same weights,",
            "bit by bit: train again, and compare the adapter digest with the registered one.",
            "",
            "| option | value |",
            "| --- | --- |",
            *(f"| {name} | {_text(value)} |" for name, value in sorted(config.items())),
            f"| threads | {self.spec.num_threads} |",
            *(f"| {name} | {value} |" for name, value in libraries.items()),
        ]


@dataclass(frozen=True, slots=True)
class ImportCard:
    """Model card of an imported adapter. `metrics` has only losses on the general set."""

    spec: ImportSpec
    base_name: str
    base_digest: str
    adapter_digest: str
    metrics: Mapping[str, float]
    statistics: Mapping[str, float]

    def render(self) -> str:
        parts = (
            *_front_matter(self.base_name, (self.spec.licence,), self.spec.about.tags),
            *self._about(),
            *self._measured(),
            *_update(self.statistics),
            *self._made_from(),
        )
        return "\n".join(parts) + "\n"

    def _about(self) -> list[str]:
        """The creator's words as a quotation, so that they cannot pass for what follows."""
        about = self.spec.about
        quoted = [f"> {line}" for line in about.description.splitlines()]
        source = [f"Its creator states that it comes from `{about.source}`.", ""] if about.source else []
        return [*quoted, *([""] if quoted else []), *source]

    def _measured(self) -> list[str]:
        base, adapter = (self.metrics[f"general_loss_{model}"] for model in ("base", "adapter"))
        return [
            "Imported, not trained here. Its training rows are unknown, so none could be held out for",
            "evaluation. On a fixed set of general questions, a loss above the base model's shows",
            "forgetting. Losses are means in nats per answer token.",
            "",
            "| model | loss on the general set |",
            "| --- | --- |",
            f"| base model | {base:.4f} |",
            f"| with this adapter | {adapter:.4f} |",
            "",
        ]

    def _made_from(self) -> list[str]:
        return [
            "## Made from",
            "",
            f"- base model: sha-256 `{self.base_digest}`",
            "- no snapshot: the contributors' share of its income goes to the treasury",
            f"- imported by `{self.spec.creator}`, who states the licence: {self.spec.licence}",
            f"- adapter digest: `{self.adapter_digest}`",
        ]


def _front_matter(base_name: str, licences: Sequence[str], tags: Sequence[str] = ()) -> list[str]:
    return [
        "---",
        f"base_model: {base_name}",
        "library_name: peft",
        f"tags: [{', '.join(json.dumps(tag) for tag in dict.fromkeys(('lora', 'loraledger', *tags)))}]",
        f"license: {licences[0] if len(licences) == 1 else 'other'}",
        "---",
        "",
        f"# LoRA adapter for {base_name}",
        "",
    ]


def _attribution(metrics: Mapping[str, float]) -> list[str]:
    """Agreement of the distilled methods with the gradient; nothing where training distilled none."""
    stated = {method: metrics[name] for method, name in AGREEMENTS.items() if name in metrics}
    if not stated:
        return []
    return [
        "## Attribution",
        "",
        "How well the methods that pay contributors agree with the gradient, from which they are distilled",
        f"(`{GRADIENT_METHOD}`): the mean Spearman correlation of the contributions' scores over",
        f"{metrics[NUM_KEPT_OUT]:.0f} answers that this adapter generated and that were kept out of the fit.",
        "It is not LDS, which needs retraining. The creator states it; `loraledger attribution verify`",
        "recomputes it.",
        "",
        "| method | agreement |",
        "| --- | --- |",
        *(f"| {method} | {value:.2f} |" for method, value in stated.items()),
        "",
    ]


def _update(statistics: Mapping[str, float]) -> list[str]:
    return [
        "## The update",
        "",
        "Means over the layers, norms relative to the weights. They do not show that the adapter is safe.",
        "",
        "| statistic | value |",
        "| --- | --- |",
        *(f"| {name.replace('_', ' ')} | {value:.4f} |" for name, value in sorted(statistics.items())),
        "",
    ]


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
