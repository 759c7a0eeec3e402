/** Recovery of the account that signed a digest, with the rules of the contracts. */

import { secp256k1 } from "@noble/curves/secp256k1.js";

import { type Hex, keccak, toBytes } from "./encoding.ts";
import { InvalidSignature } from "./errors.ts";

const HALF_ORDER = secp256k1.Point.CURVE().n / 2n;

/**
 * The account that signed. Errors: InvalidSignature, also if `s` is in the upper half of the curve's order.
 */
export function recover(digest: Hex, signature: Hex): Hex {
  const bytes = /^0x([0-9a-f]{2}){65}$/i.test(signature) ? toBytes(signature) : new Uint8Array();
  const v = bytes[64];
  if (v !== 27 && v !== 28) throw malformed("65 bytes r, s, v with v 27 or 28 are expected");
  // Signatures would be malleable otherwise: the other s, with the other v, is valid for the same message.
  if (BigInt(`0x${signature.slice(66, 130)}`) > HALF_ORDER) throw malformed("s is in the upper half");
  return addressOf(publicKey(bytes.subarray(0, 64), v - 27, toBytes(digest)));
}

function publicKey(compact: Uint8Array, recovery: number, digest: Uint8Array): Uint8Array {
  try {
    const signature = secp256k1.Signature.fromBytes(compact, "compact").addRecoveryBit(recovery);
    return signature.recoverPublicKey(digest).toBytes(false);
  } catch {
    throw malformed("no key made it");
  }
}

/** The account of an uncompressed public key. */
function addressOf(key: Uint8Array): Hex {
  return `0x${keccak(key.subarray(1)).slice(26)}`;
}

function malformed(reason: string): InvalidSignature {
  return new InvalidSignature(`the signature is invalid: ${reason}`, "signature");
}
