"""Settings are parsed once, at the edge. An unknown or malformed one is fatal and named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

LOCAL_CHAIN_ID = 31337


class Settings(BaseSettings):
    """`LORALEDGER_<NAME>` in the environment, else the default. Documented in docs/settings.md."""

    model_config = SettingsConfigDict(env_prefix="LORALEDGER_", extra="forbid", frozen=True)

    home: Path = Path(".loraledger")
    """Everything this installation keeps: database, keys, blocks, addresses, sockets."""
    database_url: str = ""
    """SQLAlchemy URL; empty: SQLite in `home`."""
    rpc_url: str = "http://127.0.0.1:8545"
    confirmations: int = Field(default=2, ge=0, le=1000)
    """Blocks on top of an event before it counts."""
    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8000, ge=0, le=65535)
    ipfs_api: str = ""
    """Multiaddr or URL of a Kubo RPC; empty: the embedded block store in `home`."""
    model_cache: Path = Path(".loraledger/cache/models")
    engine_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    engine_threads: int = Field(default=2, ge=1, le=256)
    trainer_threads: int = Field(default=2, ge=1, le=256)
    max_upload_bytes: int = Field(default=1 << 30, ge=1)
    batch_seconds: float = Field(default=5.0, gt=0)
    """A batch is committed at the latest this long after its first receipt."""
    batch_receipts: int = Field(default=10_000, ge=1)

    @property
    def db_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'loraledger.db'}"

    @property
    def engine_socket(self) -> Path:
        return self.home / "run" / "engine.sock"

    @property
    def deployment_file(self) -> Path:
        """Addresses and deployment block of the contracts this installation works with."""
        return self.home / "deployment.json"

    @property
    def keystore(self) -> Path:
        return self.home / "keys"

    @property
    def blocks(self) -> Path:
        return self.home / "ipfs"


def unknown_settings(environ: dict[str, str] | None = None) -> list[str]:
    """Names in the environment that start like ours and that no setting has."""
    names = {f"LORALEDGER_{name.upper()}" for name in Settings.model_fields}
    return sorted(n for n in (environ or os.environ) if n.startswith("LORALEDGER_") and n not in names)
