"""Fakes of two signing services that no package brings: their wire protocols, with keys in memory."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import coincurve
import grpc
from google.cloud.kms_v1 import KeyManagementServiceClient
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport
from google.cloud.kms_v1.types import (
    AsymmetricSignRequest,
    AsymmetricSignResponse,
    CryptoKeyVersion,
    GetPublicKeyRequest,
    PublicKey,
)

from backend.chain.remote_signers import ORDER, SPKI_START, compact_of_der
from backend.domain.hashing import keccak
from tests.support.answering import QuietHandler, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GOOGLE_KEY = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
SERVICE = "google.cloud.kms.v1.KeyManagementService"


class _GoogleKms:
    """Answers as Google's service for one key: other names are NOT_FOUND, and s may be in either half."""

    def __init__(self, key: bytes, signs_with: bytes) -> None:
        self._key, self._signer = coincurve.PrivateKey(key), coincurve.PrivateKey(signs_with)

    def public_key(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._check(request.name, context)
        spki = SPKI_START + self._key.public_key.format(compressed=False)
        body = base64.encodebytes(spki).decode()
        pem = f"-----BEGIN PUBLIC KEY-----\n{body}-----END PUBLIC KEY-----\n"
        algorithm = CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_SECP256K1_SHA256
        return PublicKey(name=request.name, pem=pem, algorithm=algorithm)

    def sign(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._check(request.name, context)
        if len(request.digest.sha256) != 32:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the digest must have 32 bytes")
        signature = self._signer.sign(request.digest.sha256, hasher=None)
        return AsymmetricSignResponse(name=request.name, signature=_other_half(signature))

    def _check(self, name: str, context: grpc.ServicerContext) -> None:
        if name != GOOGLE_KEY:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{name} not found")


def _other_half(der: bytes) -> bytes:
    """The same signature with the other s, for every second r."""
    compact = compact_of_der(der)
    r, s = (int.from_bytes(compact[at : at + 32], "big") for at in (0, 32))
    parts = [_integer(number) for number in (r, s if r % 2 else ORDER - s)]
    return bytes([0x30, sum(map(len, parts))]) + b"".join(parts)


def _integer(number: int) -> bytes:
    raw = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return bytes([2, len(raw)]) + raw


@contextmanager
def google_kms(key: bytes, signs_with: bytes = b"") -> Iterator[KeyManagementServiceClient]:
    """Google's client of a gRPC server with one key, `GOOGLE_KEY`."""
    fake = _GoogleKms(key, signs_with or key)
    methods = {
        "GetPublicKey": (fake.public_key, GetPublicKeyRequest, PublicKey),
        "AsymmetricSign": (fake.sign, AsymmetricSignRequest, AsymmetricSignResponse),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=asked.deserialize, response_serializer=answered.serialize
        )
        for name, (call, asked, answered) in methods.items()
    }
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    try:
        yield KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=channel))
    finally:
        channel.close()
        server.stop(None).wait()


@contextmanager
def web3signer(keys: Sequence[bytes]) -> Iterator[str]:
    """URL of a server with the two endpoints of Web3Signer's `eth1` API that are used."""
    held = {_identifier(key): coincurve.PrivateKey(key) for key in keys}

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            is_known = self.path == "/api/v1/eth1/publicKeys"
            self._answer(200 if is_known else 404, json.dumps(list(held)), "application/json")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            key = held.get(self.path.removeprefix("/api/v1/eth1/sign/"))
            if key is None:
                self._answer(404, "not found", "text/plain")
                return
            digest = keccak(bytes.fromhex(body["data"].removeprefix("0x")))
            raw = key.sign_recoverable(digest, hasher=None)
            self._answer(200, f"0x{raw[:64].hex()}{27 + raw[64]:02x}", "text/plain; charset=utf-8")

        def _answer(self, status: int, text: str, kind: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


def _identifier(key: bytes) -> str:
    return "0x" + coincurve.PrivateKey(key).public_key.format(compressed=False)[1:].hex()
