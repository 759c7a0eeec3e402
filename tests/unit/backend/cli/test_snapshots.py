from __future__ import annotations

from typing import Any

import pytest

from backend.cli.snapshots import MOST_ATTEMPTS, freeze
from backend.client.errors import ApiError
from backend.domain.errors import Conflict


class Api:
    """Fakes an API whose previewed ids are 1, 2 and so on; only the snapshot `frozen` exists."""

    def __init__(self, frozen: int) -> None:
        self.frozen = f"0x{frozen}"
        self.posted: list[Any] = []
        self.confirmed: list[Any] = []

    def post(self, path: str, body: Any) -> Any:
        self.posted.append((path, body))
        return {"snapshot_id": f"0x{len(self.posted)}", "transaction_id": len(self.posted)}

    def wait_confirmed(self, queued: dict[str, Any]) -> None:
        self.confirmed.append(queued["transaction_id"])

    def get(self, path: str) -> Any:
        if path != f"/v1/snapshots/{self.frozen}":
            raise ApiError("no snapshot", details={"status": 404})
        return {"id": self.frozen}


def frozen(api: Any, count: int | None = None) -> str:
    return freeze(api, 7, count)


def test_a_snapshot_that_a_decision_changed_is_frozen_again_with_its_new_id() -> None:
    api = Api(frozen=2)
    assert frozen(api, 3) == "0x2"
    assert api.posted == [("/v1/datanets/7/snapshots", {"count": 3})] * 2
    assert api.confirmed == [1, 2]


def test_a_datanet_that_keeps_changing_is_reported() -> None:
    api = Api(frozen=MOST_ATTEMPTS + 1)
    with pytest.raises(Conflict, match="what datanet 7 accepts changed"):
        frozen(api)
    assert len(api.confirmed) == MOST_ATTEMPTS


def test_an_error_of_the_api_is_not_taken_for_a_changed_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_path: str) -> Any:
        raise ApiError("overloaded", details={"status": 503})

    api = Api(frozen=1)
    monkeypatch.setattr(api, "get", failing)
    with pytest.raises(ApiError, match="overloaded"):
        frozen(api)
    assert len(api.posted) == 1
