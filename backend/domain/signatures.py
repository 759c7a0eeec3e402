"""Signatures of secp256k1 keys as the contracts accept them: 65 bytes r, s, v in 0x-hex; and of contracts."""

from __future__ import annotations

from backend.domain.errors import InvalidInput

MAX_SIGNATURE_BYTES = 4096
"""Signatures of contract wallets are longer than 65 bytes; the operator pays for their calldata."""
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


def parse_signature(text: str) -> tuple[bytes, int]:
    """R and s in 64 bytes, and the parity of the point's y.

    Errors: `InvalidInput` for a malformed signature or one with s in the upper half of the curve's order.
    """
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise malformed_signature("it is not hex") from None
    if len(raw) != 65 or raw[64] not in (27, 28):
        raise malformed_signature("65 bytes r, s, v with v 27 or 28 are expected")
    if int.from_bytes(raw[32:64], "big") > HALF_ORDER:
        raise malformed_signature("s is in the upper half")  # signatures would be malleable otherwise
    return raw[:64], raw[64] - 27


def compact(signature: str) -> tuple[str, str]:
    """Compact form r, vs of a 65-byte signature r, s, v. Source: EIP-2098."""
    raw = bytes.fromhex(signature.removeprefix("0x"))
    vs = int.from_bytes(raw[32:64], "big") | (raw[64] - 27) << 255
    return "0x" + raw[:32].hex(), f"0x{vs:064x}"


def malformed_signature(why: str) -> InvalidInput:
    return InvalidInput(f"malformed signature: {why}", param="signature")


def signature_hex(signature: str) -> str:
    """A signature that a contract wallet may accept, as 0x-hex. Errors: `InvalidInput`."""
    digits = signature.removeprefix("0x")
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        raw = b""
    if not 0 < len(raw) <= MAX_SIGNATURE_BYTES:
        raise InvalidInput(
            f"The signature must be hex of 1 to {MAX_SIGNATURE_BYTES} bytes.", param="signature"
        )
    return "0x" + raw.hex()
