/**
 * The checks of a receipt. Twin of `receipt_checks.py` in the domain and `verification.py` in the services.
 */

import { dollars, faultOfShares, faultOfWeights, sumOf } from "./charge.ts";
import type { Proof, ReceiptFile } from "./documents.ts";
import { type Hex, ZERO_HASH } from "./encoding.ts";
import { InvalidSignature } from "./errors.ts";
import { type Check, chargesOf, type Facts, open, orInvalid, placeOf, right, wrong } from "./facts.ts";
import { attributionHash, batchHash, responseBytes, saltedHash, slicesHash } from "./hashing.ts";
import { type Span, spansHash, type VersionRecord } from "./hashing.ts";
import { RECEIPTS_TAG, resolve } from "./merkle.ts";
import { digestOf, type Receipt, structHash } from "./messages.ts";
import { recover } from "./signatures.ts";

/** Request and answer of a receipt. */
export interface Content {
  /** The request's JSON body, byte for byte. */
  readonly request: Uint8Array;
  /** The text of each choice of the answer. */
  readonly answers: readonly string[];
}

export function checkHash({ file, id }: Facts): Check {
  if (id === file.id) return right("hash", `the receipt's id is ${id}`);
  return wrong("hash", `the receipt's id is ${id}, not ${file.id}`);
}

/**
 * Whether the receipt is that of the charge `got`, whose id the payer got with the answer. Without it, of the
 * charge that the file itself states; null if it states none.
 */
export function checkCharged({ receipt, charge }: ReceiptFile, got: Hex | null): Check | null {
  if (charge === null) {
    if (got === null) return null;
    const message = `the file states no charge, and so does not show that it is the receipt of ${got}`;
    return wrong("charged", message);
  }
  const stated = got ?? charge.id;
  const id = structHash("Charge", { ...receipt, receiptBy: charge.receiptBy });
  if (id === stated) return right("charged", `the id of its charge is ${id}`);
  return wrong("charged", `the id of its charge is ${id}, not ${stated}`);
}

/** Whether a receipt key of the operator has signed. `batch`: the result of `checkBatch`. */
export async function checkSignature({ file, market, proof, chain }: Facts, batch: Check): Promise<Check> {
  let signer: Hex;
  try {
    const domain = { chainId: market.chainId, contract: market.addresses.Settlement };
    signer = recover(digestOf(domain, "Receipt", file.receipt), file.signature);
  } catch (error) {
    if (error instanceof InvalidSignature) return wrong("signature", error.message);
    throw error;
  }
  if (chain === null) return open("signature", `by ${signer}; only a node knows whose receipt keys that is`);
  if ((await chain.operatorOfKey(signer)) !== file.operator) {
    return wrong("signature", `by ${signer}, which is NOT a receipt key of ${file.operator}`);
  }
  const message = `by ${signer}, which is a receipt key of ${file.operator}`;
  const retiredAt = await chain.retiredAt(signer);
  if (retiredAt === 0n) return right("signature", message);
  if (batch.isRight === true && proof !== null && proof.header.committedAt <= retiredAt) {
    return right("signature", `${message}, retired after its batch`);
  }
  const text = "retired, so that anyone may have signed since: request the receipt again for the next key's";
  return open("signature", `${message}, ${text} signature`);
}

/** Whether the versions and shares of the file are the signed ones. */
export function checkSlices({ receipt, method, slices }: ReceiptFile): Check {
  if (slicesHash(slices) !== receipt.slicesHash) {
    return wrong("slices", "the versions are not those that were signed");
  }
  if (attributionHash(method, slices) !== receipt.attributionHash) {
    return wrong("slices", "the shares are not those that were signed");
  }
  const versions = slices.length === 1 ? "1 version" : `${slices.length} versions`;
  return right("slices", `${versions}, shares by ${method}`);
}

/**
 * Whether the charge is tokens times registered prices, of well-formed shares. `slices`: of `checkSlices`.
 */
export async function checkCharge(facts: Facts, slices: Check): Promise<Check> {
  const { file, chain } = facts;
  const { receipt } = file;
  if (slices.isRight === false) return open("charge", "the file does not have the slices that were charged");
  const records = file.slices.map((slice) => facts.versions.get(slice.versionId));
  const missing = file.slices.find((_, at) => records[at] === undefined);
  if (missing !== undefined) return open("charge", `there is no record of version ${missing.versionId}`);
  const known = records as VersionRecord[];
  const lists = receipt.charge === 0n ? null : checkLists(facts, known);
  if (lists?.isRight === false) return lists;
  const counts = `${receipt.promptTokens} + ${receipt.completionTokens} tokens`;
  const charge = sumOf(chargesOf(file, known));
  if (charge !== receipt.charge) {
    return wrong("charge", `${counts} are ${charge} micro-units, not ${receipt.charge}`);
  }
  if (lists !== null) return lists;
  const message = `${counts} are ${dollars(receipt.charge)} dollars`;
  if (chain === null) return open("charge", `${message}; only a node knows if the prices are registered`);
  for (const { versionId } of file.slices) {
    if ((await chain.registeredAt(versionId)) === 0n) {
      return wrong("charge", `version ${versionId} is not registered`);
    }
  }
  return right("charge", `${message} at registered prices`);
}

/** Whether the receipt has its place in a batch that the chain has. */
export async function checkBatch({ file, id, proof, chain }: Facts): Promise<Check> {
  if (proof === null) return open("batch", "there is no proof that a batch includes it");
  const { header } = proof;
  if (header.operator !== file.operator) return wrong("batch", `its batch is one of ${header.operator}`);
  const fault = faultOfPlace(file.receipt, id, proof);
  if (fault !== null) return wrong("batch", fault);
  const place = `leaf ${proof.receipt.index} of ${header.receiptsCount} of batch ${header.number}`;
  if (chain === null) return open("batch", `${place}; only a node knows if the batch is committed`);
  const committed = await chain.batchHashAt(header.operator, header.number);
  if (committed === ZERO_HASH) {
    return open("batch", `${place}, which the chain does not have: not committed yet, or voided`);
  }
  if (committed !== batchHash(header)) return wrong("batch", `the chain has another batch ${header.number}`);
  const isFinal = (await chain.finalisedOf(header.operator)) >= header.number;
  return right("batch", `${place} (${isFinal ? "final" : "pending"}), proved by its path to the root`);
}

/** Whether the receipt commits to this request and answer. */
export function checkContent({ receipt, salt }: ReceiptFile, content: Content): Check {
  if (salt === null) return open("content", "the receipt has no salt");
  const faults = [
    ...(saltedHash(salt, content.request) === receipt.requestHash ? [] : ["not the request"]),
    ...(saltedHash(salt, responseBytes(content.answers)) === receipt.responseHash ? [] : ["not the answer"]),
  ];
  if (faults.length > 0) return wrong("content", `${faults.join(" and ")} of this receipt`);
  return right("content", "request and answer match the receipt");
}

/** What is wrong with weights and lists, or missing to tell; null if nothing is. */
function checkLists({ file, snapshots }: Facts, records: readonly VersionRecord[]): Check | null {
  const faults = [faultOfWeights(file.slices)];
  let missing: Hex | null = null;
  for (const [at, { shares, versionId }] of file.slices.entries()) {
    const known = records[at]!.snapshots;
    faults.push(faultOfShares(shares, known.length));
    for (const { position } of shares) {
      const { snapshot, index } = placeOf(position, known);
      const manifest = snapshot === null ? null : snapshots.get(snapshot);
      if (manifest === undefined) missing = snapshot;
      else if (!manifest?.contributions.has(index)) {
        faults.push(`position ${position} is outside the snapshots of ${versionId}`);
      }
    }
  }
  const fault = faults.find((found) => found !== null);
  if (fault !== undefined) return wrong("charge", fault);
  return missing === null ? null : open("charge", `there is no manifest of snapshot ${missing}`);
}

function faultOfPlace(receipt: Receipt, id: Hex, proof: Proof): string | null {
  const { header, spans } = proof;
  if (proof.receipt.value !== receipt.charge) return `the leaf has the value ${proof.receipt.value}`;
  if (spansHash(spans) !== header.spansHash) return "the spans are not those of the batch";
  return orInvalid(() => {
    const opened = resolve(RECEIPTS_TAG, id, header.receiptsCount, proof.receipt);
    if (opened.root !== header.receiptsRoot || opened.total !== header.total) {
      return "its path leads to another root or sum than the batch's";
    }
    return isMisplaced(receipt, spans, opened.prefix) ? "it is not in its place among the spans" : null;
  });
}

/** Whether a receipt is outside its place in the batch. `prefix`: the sum of the receipts before it. */
function isMisplaced(receipt: Receipt, spans: readonly Span[], prefix: bigint): boolean {
  const begin = receipt.cumulative - receipt.charge;
  let offset = 0n;
  for (const span of spans) {
    if (span.channelId === receipt.channelId) {
      const isInside = span.from <= begin && receipt.cumulative <= span.until;
      return !isInside || prefix !== offset + begin - span.from;
    }
    offset += span.until - span.from;
  }
  return true;
}
