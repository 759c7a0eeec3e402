/**
 * Openings of Merkle-sum trees, whose root commits to all leaves and to their sum. Source: docs/protocol.md.
 */

import { concat, type Hex, keccak, textBytes, toBytes, toHex, uint, word } from "./encoding.ts";
import { InvalidOpening } from "./errors.ts";

const NODE = 48;
const MAX_SUM = (1n << 128n) - 1n;

export const RECEIPTS_TAG = keccak(textBytes("loraledger.receipts"));
export const ENTRIES_TAG = keccak(textBytes("loraledger.entries"));
export const BALANCES_TAG = keccak(textBytes("loraledger.balances"));

/** Proof of one leaf. `path` has its siblings from the leaf upwards, `sum 16 ‖ hash 32` each. */
export interface Opening {
  readonly index: bigint;
  readonly value: bigint;
  readonly path: Hex;
}

/** Root and sum that an opening implies, and the sum of the leaves before its leaf. */
export interface ResolvedLeaf {
  readonly root: Hex;
  readonly total: bigint;
  readonly prefix: bigint;
}

/** Key of an entry: `account << 64 | receipt << 32 | slice << 16 | part`. */
export function entryKey(account: Hex, receipt: bigint, slice: bigint, part: bigint): Hex {
  return toHex(word((BigInt(account) << 64n) | (receipt << 32n) | (slice << 16n) | part));
}

/** Resolves the opening of `key`. Errors: InvalidOpening if it fits no tree of `count` leaves. */
export function resolve(tag: Hex, key: Hex, count: bigint, opening: Opening): ResolvedLeaf {
  if (opening.index < 0n || opening.index >= count) {
    throw new InvalidOpening(`the tree has ${count} leaves, so it has no leaf ${opening.index}`, "index");
  }
  const path = toBytes(opening.path);
  let node = packed(opening.value, keccak(concat(toBytes(tag), word(key))));
  let [prefix, index, at] = [0n, opening.index, 0];
  for (let width = count; width > 1n; width = (width + 1n) >> 1n, index >>= 1n) {
    if ((index ^ 1n) >= width) continue; // the last node of an odd level is promoted
    const sibling = path.subarray(at, at + NODE);
    if (sibling.length !== NODE) throw new InvalidOpening("the path is too short", "path");
    const [left, right] = index & 1n ? [sibling, node] : [node, sibling];
    if (left === sibling) prefix += sumOf(sibling);
    node = packed(sumOf(left) + sumOf(right), keccak(concat(left, right)));
    at += NODE;
  }
  if (at !== path.length) throw new InvalidOpening("the path is too long", "path");
  return { root: toHex(node.subarray(16)), total: sumOf(node), prefix };
}

function sumOf(node: Uint8Array): bigint {
  return BigInt(toHex(node.subarray(0, 16)));
}

/** A node: `sum 16 ‖ hash 32`. */
function packed(sum: bigint, hash: Hex): Uint8Array {
  if (sum > MAX_SUM) throw new InvalidOpening("the sum does not fit uint128", "value");
  return concat(uint(sum, 16), toBytes(hash));
}
