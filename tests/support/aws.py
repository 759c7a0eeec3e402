"""Moto's server of AWS's services, in this process."""

from __future__ import annotations

import logging
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from moto.kms.utils import ECDSAPrivateKey
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


@contextmanager
def aws_server() -> Iterator[str]:
    """Run the server for the block, on a free port of loopback; yields its URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def use_server(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this server the one that AWS's clients of the test find."""
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


def new_bucket(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a fresh bucket."""
    use_server(url, monkeypatch)
    name = f"test-{uuid.uuid4().hex}"
    client = new_client("s3")
    client.create_bucket(Bucket=name)
    client.close()
    return name


def new_client(service: str) -> Any:
    import boto3

    return boto3.client(service)


def new_key(monkeypatch: pytest.MonkeyPatch, spec: str = "ECC_SECG_P256K1") -> str:
    """Id of a fresh key of KMS that signs. Moto hashes digests again, which AWS does not: mended here."""

    def sign(key: ECDSAPrivateKey, message: bytes, signing_algorithm: str) -> bytes:
        assert (len(message), signing_algorithm) == (32, "ECDSA_SHA_256")
        signature: bytes = key.private_key.sign(message, ec.ECDSA(Prehashed(hashes.SHA256())))
        return signature

    monkeypatch.setattr(ECDSAPrivateKey, "sign", sign)
    client = new_client("kms")
    made: str = client.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    client.close()
    return made
