"""Wires the attribution of answers: its methods, the gradient stage, and the sample that measures it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from backend.installation.resources import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.domain.ids import Hash32
    from backend.installation.resources import Resources
    from backend.ports.attribution import Attributor
    from backend.ports.gradients import Gradients
    from backend.services.answers.gradient_stage import GradientStage
    from backend.services.answers.live_agreement import LiveAgreements
    from backend.services.operator.receipt_keys import ReceiptKeys


class Attribution:
    def __init__(self, resources: Resources, receipt_keys: Callable[[], ReceiptKeys]) -> None:
        """`receipt_keys` are asked for if there is a stage, whose charges they sign."""
        self._resources, self._receipt_keys = resources, receipt_keys

    @cached_property
    def methods(self) -> tuple[Attributor, ...]:
        """In order of preference: the first that supports an answer attributes it (docs/adr/0016)."""
        from backend.services.answers.attribution import (
            Distilled,
            DistilledError,
            HiddenCosine,
            Ridge,
            Uniform,
        )
        from backend.services.answers.attribution_index import Indices

        indices = Indices()
        distilled = Distilled(indices), DistilledError(indices)
        return *distilled, Ridge(indices, "error"), HiddenCosine(indices), Uniform()

    @cached_property
    def stage(self) -> GradientStage | None:
        """None unless the operator has chosen the stage."""
        from backend.services.answers.gradient_stage import GradientStage
        from backend.services.channels.charges import Charges

        resources, seconds = self._resources, self._resources.settings.gradient_seconds
        if not seconds:
            return None
        domain = resources.typed_domain("Settlement")
        charges = Charges(resources.database, domain, self._receipt_keys().in_use)
        return GradientStage(self._gradients(), charges, seconds, self.live_agreements)

    @cached_property
    def live_agreements(self) -> LiveAgreements:
        from backend.services.answers.live_agreement import LiveAgreements

        resources, rate = self._resources, self._resources.settings.live_agreement_ppm
        return LiveAgreements(resources.database, resources.chain.block, self._gradients(), rate, utc_now)

    def _gradients(self) -> dict[Hash32, Gradients]:
        """New clients of the processes that compute gradients, by base model."""
        from backend.engine.gradient_client import GradientClient

        pairs = zip(self._resources.base_models, self._resources.settings.served, strict=True)
        return {digest: GradientClient(base.gradients_socket) for digest, base in pairs}
