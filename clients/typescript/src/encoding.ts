/** Bytes, hex and ABI words. Source: docs/protocol.md. */

import { keccak_256 } from "@noble/hashes/sha3.js";
import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";

/** Bytes as lower-case 0x-hex. Accounts have 20 bytes, ids and hashes 32. */
export type Hex = `0x${string}`;

export const ZERO_HASH: Hex = `0x${"00".repeat(32)}`;

export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  return concatBytes(...parts);
}

export function toBytes(hex: Hex): Uint8Array {
  return hexToBytes(hex.slice(2));
}

export function toHex(bytes: Uint8Array): Hex {
  return `0x${bytesToHex(bytes)}`;
}

/** UTF-8. */
export function textBytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** Keccak-256. */
export function keccak(data: Uint8Array): Hex {
  return toHex(keccak_256(data));
}

/** Big-endian in `size` bytes. Errors: RangeError if it does not fit. */
export function uint(value: bigint, size: number): Uint8Array {
  const digits = value.toString(16).padStart(2 * size, "0");
  if (value < 0n || digits.length > 2 * size) throw new RangeError(`${value} does not fit ${size} bytes`);
  return hexToBytes(digits);
}

/** One ABI word: an integer, or an address or hash, right-aligned. */
export function word(value: bigint | Hex): Uint8Array {
  return uint(typeof value === "bigint" ? value : BigInt(value), 32);
}

/** `abi.encode` of static values. */
export function words(...values: readonly (bigint | Hex)[]): Uint8Array {
  return concat(...values.map(word));
}

/**
 * A name as `bytes32`: one byte a character, left-aligned, zero-padded. Errors: RangeError if it does not
 * fit.
 */
export function nameWord(name: string): Uint8Array {
  const bytes = textBytes(name);
  if (bytes.length > 32 || bytes.length !== name.length) {
    throw new RangeError(`${JSON.stringify(name)} is not ASCII of at most 32 characters`);
  }
  return concat(bytes, new Uint8Array(32 - bytes.length));
}
