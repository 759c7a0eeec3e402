/** What a verification is made from, and what it finds. */

import type { Chain } from "./chain.ts";
import { sliceCharge } from "./charge.ts";
import type { Market, Proof, ReceiptFile, Snapshot } from "./documents.ts";
import type { Hex } from "./encoding.ts";
import { InvalidOpening } from "./errors.ts";
import type { VersionRecord } from "./hashing.ts";

/** What the checks are made from. Records and snapshots are by their computed ids. */
export interface Facts {
  readonly file: ReceiptFile;
  /** The receipt's computed id. */
  readonly id: Hex;
  readonly market: Market;
  readonly proof: Proof | null;
  readonly versions: ReadonlyMap<Hex, VersionRecord>;
  readonly snapshots: ReadonlyMap<Hex, Snapshot>;
  readonly chain: Chain | null;
}

/**
 * One check. `isRight` is null if it cannot be decided with what is at hand; the message says what is
 * missing.
 */
export interface Check {
  readonly name: "hash" | "signature" | "slices" | "charge" | "charged" | "batch" | "earnings" | "content";
  readonly isRight: boolean | null;
  readonly message: string;
}

export function right(name: Check["name"], message: string): Check {
  return { name, isRight: true, message };
}

export function wrong(name: Check["name"], message: string): Check {
  return { name, isRight: false, message };
}

export function open(name: Check["name"], message: string): Check {
  return { name, isRight: null, message };
}

/** The charge of each slice, in micro-units. */
export function chargesOf({ receipt, slices }: ReceiptFile, records: readonly VersionRecord[]): bigint[] {
  return slices.map(({ weightPpm }, at) => {
    return sliceCharge(weightPpm, records[at]!, receipt.promptTokens, receipt.completionTokens);
  });
}

/** Snapshot and contribution index of a position; no snapshot if the record has none with that number. */
export function placeOf(
  position: bigint,
  snapshots: readonly Hex[],
): { snapshot: Hex | null; index: bigint } {
  return { snapshot: snapshots[Number(position >> 24n)] ?? null, index: position & 0xffffffn };
}

/** The message of an invalid opening as a fault. */
export function orInvalid(find: () => string | null): string | null {
  try {
    return find();
  } catch (error) {
    if (error instanceof InvalidOpening) return error.message;
    throw error;
  }
}
