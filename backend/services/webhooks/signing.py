"""Signs deliveries as Standard Webhooks 1.0.0 describes.

Secrets are derived from one key of the installation, so the database has none: a copy of it signs nothing.
Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

from standardwebhooks import Webhook

from backend.domain.errors import Unavailable
from backend.domain.ids import Hash32

if TYPE_CHECKING:
    from datetime import datetime

    from backend.domain.webhooks import WebhookEndpoint

PREFIX = "whsec_"


class WebhookKeyChanged(Unavailable):
    """The installation's webhook key is not the one that the endpoint's secret was derived from."""


class SigningSecrets:
    """`key`: the installation's webhook key."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def secret(self, endpoint_id: str, number: int) -> str:
        """The endpoint's secret of this number: `whsec_` and 32 bytes in base64."""
        raw = hmac.digest(self._key, f"{endpoint_id}.{number}".encode(), "sha256")
        return PREFIX + base64.b64encode(raw).decode()

    def headers(self, endpoint: WebhookEndpoint, message_id: str, body: str, now: datetime) -> dict[str, str]:
        """Headers of one attempt. While the previous secret is valid it signs too.

        Errors: `WebhookKeyChanged`.
        """
        numbers = [endpoint.secret_number]
        if endpoint.old_secret_until is not None and now < endpoint.old_secret_until:
            numbers.append(endpoint.secret_number - 1)
        secrets = [self.secret(endpoint.id, number) for number in numbers]
        if hash_of(secrets[0]) != endpoint.secret_hash:
            raise WebhookKeyChanged(
                "The market has lost the key of this endpoint's secret: rotate the secret, or wait until the "
                "operator restores the key."
            )
        return {
            "content-type": "application/json",
            "user-agent": "loraledger-webhooks",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(Webhook(s).sign(message_id, now, body) for s in secrets),
        }


def hash_of(secret: str) -> Hash32:
    return Hash32("0x" + hashlib.sha256(secret.encode()).hexdigest())


def hint_of(secret: str) -> str:
    """What is shown of a secret later."""
    return f"{PREFIX}...{secret[-4:]}"
