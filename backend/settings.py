"""Settings are parsed once, at the edge. An unknown or malformed one is fatal and named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend.domain.contribution import PersonalKind
from backend.domain.errors import InvalidInput

_LONGEST_SOCKET = 100  # bytes of a socket's name that fit everywhere


class Settings(BaseSettings):
    """`LORALEDGER_<NAME>` in the environment, else the default. Documented in docs/settings.md."""

    model_config = SettingsConfigDict(env_prefix="LORALEDGER_", extra="forbid", frozen=True)

    home: Path = Path(".loraledger")
    """Everything this installation keeps: database, keys, blocks, addresses, sockets."""
    database_url: str = ""
    """SQLAlchemy URL; empty: SQLite in `home`."""
    rpc_url: str = "http://127.0.0.1:8545"
    """JSON-RPC endpoint of the chain; `loraledger up` starts a chain of its own instead."""
    confirmations: int = Field(default=2, ge=0, le=1000)
    """Blocks on top of an event before it counts."""
    api_host: str = "127.0.0.1"
    """Address that the API listens on."""
    api_port: int = Field(default=8000, ge=1, le=65535)
    """Its port; `loraledger up` takes another one if it is taken, and keeps it."""
    public_url: str = ""
    """Where wallets and pages reach this API; sign-in messages must name it. Empty: host and port above."""
    broker_url: str = ""
    """Celery's broker, such as `redis://host` (extra `redis`); empty: files in `home`."""
    ipfs_api: str = ""
    """Multiaddr or URL of a Kubo RPC; empty: the embedded block store in `home`."""
    private_peers: bool | None = None
    """Whether endpoints that others wrote on the chain may lie in private networks, this machine included:
    wherever others can write there, they would send us to what only we can reach. Unset: on the local network
    (chain 31337) only. A warning says so at the start."""
    base_model: str = ""
    """Folder, GGUF file or hub id (`owner/name`, `owner/name@revision`). Empty: SmolLM2-135M-Instruct."""
    model_cache: Path = Path(".loraledger/cache/models")
    """Where the base model is kept once it is converted; several installations may share it."""
    operator: str = ""
    """Account that commits and relays, its key in the key store. Empty: the local network's test key."""
    receipt_key: str = ""
    """Account that signs receipts; likewise."""
    keystore_password_file: Path | None = None
    """File that holds the key store's password. Unset: on the local network a random one beside the keys."""
    engine_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Weights and keys and values of the engine: `float32`, `bfloat16` or `float16`."""
    engine_quantization: Literal["none", "int8", "int4"] = "none"
    """Of the base model's linear layers; adapters stay in `engine_dtype`."""
    engine_threads: int = Field(default=2, ge=1, le=256)
    """Of the engine process."""
    trainer_threads: int = Field(default=2, ge=1, le=256)
    """Of a training process."""
    max_upload_bytes: int = Field(default=1 << 30, ge=1)
    """Larger uploads are refused."""
    refused_personal_data: str = "CREDIT_CARD,CRYPTO,IBAN_CODE,UK_NHS,UK_NINO,US_SSN"
    """Kinds of personal data whose rows are not taken, with commas; all others are only reported."""
    training_price: int = Field(default=400_000, ge=0, lt=1 << 63)
    """Of a million tokens trained, in token units; 0: training is free, and nobody needs a channel for it."""
    key_requests_per_minute: int = Field(default=1000, ge=0)
    """Of one API key, by each API process; 0: no limit."""
    wallet_requests_per_minute: int = Field(default=5000, ge=0)
    """Of one account, with all its keys."""
    address_requests_per_minute: int = Field(default=1000, ge=0)
    """Of one network address, before it has signed in."""
    key_tokens_per_minute: int = Field(default=2_000_000, ge=0)
    """Tokens of prompts and answers of one API key."""
    wallet_tokens_per_minute: int = Field(default=10_000_000, ge=0)
    """Of one account, with all its keys."""
    answer_seconds: float = Field(default=180.0, gt=0)
    """An answer, its adapter's fetch included, may take this long; keep it well below the vault's thaw."""
    max_lag_seconds: int = Field(default=60, ge=1)
    """No answer begins while the last indexed block is older; keep it well below the vault's thaw."""
    batch_seconds: float = Field(default=5.0, gt=0)
    """A batch is committed at the latest this long after its first receipt."""
    batch_receipts: int = Field(default=10_000, ge=1)
    """A batch has at most this many receipts, and is committed at once when that many wait."""

    log_format: Literal["text", "json"] = "text"
    """Lines of the log for people, or one JSON object each with request and trace id."""
    metrics_token_file: Path | None = None
    """File that holds the token with which `GET /metrics` is called. Unset: a random one in `home`."""
    watcher: str = ""
    """Account whose key in the key store pays for what `loraledger watch` sends. Empty: a local test key."""
    watch_max_bond: int = Field(default=100_000_000, ge=0)
    """Bonds of the watcher's open demands together, at most, in units of the payment token."""
    watch_max_gas: int = Field(default=15_000_000, ge=21_000)
    """Gas of one of its transactions, at most."""
    watch_max_gas_price: int = Field(default=200, ge=1)
    """What it pays for gas, at most, tip included, in gwei."""

    @property
    def db_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'loraledger.db'}"

    @field_validator("refused_personal_data")
    @classmethod
    def _are_kinds(cls, names: str) -> str:
        known = ", ".join(PersonalKind)
        if not set(_listed(names)) <= set(PersonalKind):
            raise ValueError(f"some of {known}, with commas")
        return names

    @property
    def refused_kinds(self) -> frozenset[PersonalKind]:
        """Of personal data."""
        return frozenset(map(PersonalKind, _listed(self.refused_personal_data)))

    @property
    def origins(self) -> tuple[str, ...]:
        """Origins that a sign-in message may come from."""
        if self.public_url:
            return (self.public_url.rstrip("/"),)
        return tuple(f"http://{host}:{self.api_port}" for host in dict.fromkeys((self.api_host, "localhost")))

    @property
    def engine_socket(self) -> Path:
        """Where the whole name is too long, as seen from here: the kernel takes about a hundred bytes."""
        path = self.home / "run" / "engine.sock"
        if len(os.fsencode(path)) < _LONGEST_SOCKET:
            return path
        return Path(min(str(path), os.path.relpath(path), key=len))

    @property
    def deployment_file(self) -> Path:
        """Addresses and deployment block of the contracts this installation works with."""
        return self.home / "deployment.json"

    @property
    def base_model_file(self) -> Path:
        """Name, digest and folder of the base model that is served."""
        return self.home / "base_model.json"

    @property
    def meters(self) -> Path:
        """What the processes of this installation count."""
        return self.home / "run" / "meters"

    @property
    def keystore(self) -> Path:
        return self.home / "keys"

    @property
    def blocks(self) -> Path:
        return self.home / "ipfs"


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def load_settings() -> Settings:
    """From the environment. Raises `InvalidInput` that names each unknown or malformed setting."""
    names = {f"LORALEDGER_{name.upper()}" for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith("LORALEDGER_") and name not in names)
    if unknown:
        raise InvalidInput(f"unknown settings in the environment: {', '.join(unknown)}", param=unknown[0])
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(f"LORALEDGER_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise InvalidInput(f"malformed settings: {wrong}", param="settings") from error
