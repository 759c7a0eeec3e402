"""Two operators on one chain, an adapter that the first one published, and a payer of the second."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from openai import OpenAI
from safetensors.numpy import save_file

from backend.domain.attribution import DISTILLED_METHOD, INDEX_FILE, INDEX_METADATA
from backend.domain.content import cid_digest
from backend.domain.hashing import channel_id, record_argument, to_hash, version_id
from backend.domain.ids import Hash32
from backend.domain.money import UNIT
from backend.domain.voucher import Voucher
from backend.engine.process import EngineProcess
from backend.installation.base_model import BaseModelInfo
from inference.model.base_model import base_model_digest
from tests.fixtures_engine import make_adapter, make_model
from tests.integration.api.conftest import sign_in
from tests.support.engine import RunningEngine
from tests.support.running_operator import RunningOperator, deposit, listening, new_operator, serving
from tools.local_market import CREATOR, PAYERS, LocalMarket

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.domain.ids import Cid, VersionId

HIDDEN, DEPOSIT = 64, 100_000_000
PAYER = PAYERS[0]


class TwoOperators:
    """`home` has published an adapter; `away` knows it only from the chain."""

    def __init__(self, chain: ChainClient, rpc_url: str, folder: Path, stack: ExitStack) -> None:
        self.market = LocalMarket(chain)
        self.market._contribute()
        model = make_model(folder / "model")
        facts = BaseModelInfo("tiny", to_hash(bytes.fromhex(base_model_digest(model))), str(model))
        at_home, home_url = stack.enter_context(listening())
        at_away, away_url = stack.enter_context(listening())
        self.home = RunningOperator(folder / "home", self.market, facts, rpc_url, home_url)
        keys = new_operator(folder / "away_keys", self.market)
        self.away = RunningOperator(folder / "away", self.market, facts, rpc_url, away_url, **keys)
        (folder / "away_keys" / "keys").rename(folder / "away" / "keys")
        self.cid, self.version = self._publish(folder, model, facts)
        socket_path = self.away.settings.engine_socket
        socket_path.parent.mkdir(parents=True)
        engine = RunningEngine(EngineProcess(socket_path, model, num_threads=1, options={"dtype": "float32"}))
        stack.callback(engine.end)
        deposit(self.market, PAYER, self.away.installation.operator.account, DEPOSIT)
        for operator_, listener in ((self.home, at_home), (self.away, at_away)):
            operator_.announce()
            stack.enter_context(serving(operator_, listener))
        self.home.pump()
        engine.wait_until_ready()

    def _publish(self, folder: Path, model: Path, facts: BaseModelInfo) -> tuple[Cid, VersionId]:
        adapter = make_adapter(folder / "adapter", model)
        tensors: dict[str, np.ndarray[Any, Any]] = {
            "positions": np.array([0, 2], dtype=np.int64),
            "hidden.vectors": np.eye(2, HIDDEN, dtype=np.float32),
            "rows": np.ones(2, dtype=np.int64),
            "hidden.centre": np.zeros(HIDDEN, dtype=np.float32),
            "error.vectors": np.outer([1, 2], np.ones(HIDDEN)).astype(np.float32),
            "distilled.weights": np.full((2, 2 * HIDDEN), 0.01, dtype=np.float32),
            "distilled.bias": np.array([1, 2], dtype=np.float32),
        }
        save_file(tensors, folder / "adapter" / INDEX_FILE, INDEX_METADATA | {"methods": DISTILLED_METHOD})
        cid = self.home.installation.blobs.add_directory(folder / "adapter")
        record = replace(
            self.market.adapter,
            adapter_digest=Hash32(f"0x{adapter.digest}"),
            cid_digest=cid_digest(cid),
            base_model=facts.digest,
        )
        self.market.send(CREATOR, "AdapterRegistry", "register", record_argument(record))
        return cid, version_id(record)

    def client(self) -> OpenAI:
        """A client of the payer at `away`, with a voucher for the whole deposit."""
        session = sign_in(self.away.url, PAYER)
        http = httpx.Client(base_url=self.away.url, headers={"authorization": f"Bearer {session}"})
        operator, amount = self.away.installation.operator.account, DEPOSIT * UNIT
        channel = channel_id(PAYER.account, operator, self.market.settlement.contract)
        signature = PAYER.sign(self.market.vault.voucher_digest(Voucher(channel, 0, amount)))
        voucher = {"max_cumulative": str(amount), "signature": signature}
        with http:
            added = http.post(f"/v1/channels/{channel}/vouchers", json=voucher)
            assert added.status_code == 201, added.text
            key = http.post("/v1/keys", json={"name": "test"}).json()["secret"]
        return OpenAI(base_url=f"{self.away.url}/v1", api_key=key, max_retries=0)
