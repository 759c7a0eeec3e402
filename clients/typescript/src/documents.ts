/**
 * The documents that a verification reads, as the API serves them. All are untrusted but the market's record.
 */

import { MAX_SHARES, MAX_SLICES } from "./charge.ts";
import type { Hex } from "./encoding.ts";
import { MalformedDocument } from "./errors.ts";
import { acceptedHash, type Header, type Share, type Slice, snapshotId } from "./hashing.ts";
import { type Span, versionId, type VersionRecord } from "./hashing.ts";
import type { Opening } from "./merkle.ts";
import type { Receipt } from "./messages.ts";
import type { components } from "./openapi.ts";
import {
  decimal,
  hex,
  hexItems,
  integer,
  listOf,
  matching,
  nullable,
  object,
  type Reader,
} from "./readers.ts";

const MAX_SPANS = 256;
/** An opening of a tree of 2^32 leaves has 32 nodes. */
const MAX_PATH = 32;
const MAX_SNAPSHOTS = 4;
const [account, hash] = [hex(20), hex(32)];

/** Contracts that a verification reads. */
export type Contract =
  "Settlement" | "OperatorRegistry" | "AdapterRegistry" | "DatasetRegistry" | "Parameters";

/** The record of a deployment: `deployments/<chainId>.json`, or a home's `deployment.json`. */
export interface Market {
  readonly chainId: bigint;
  readonly blockNumber: bigint;
  /** Hash of that block, which identifies the chain beyond its id. */
  readonly blockHash: Hex;
  readonly addresses: Readonly<Record<Contract, Hex>>;
}

/** `GET /v1/receipts/{id}`, and what `loraledger receipts show --out` writes. */
export interface ReceiptFile {
  readonly id: Hex;
  readonly operator: Hex;
  readonly receipt: Receipt;
  readonly method: string;
  readonly slices: readonly Slice[];
  readonly signature: Hex;
  /** Null for callers other than the payer. */
  readonly salt: Hex | null;
  /** The charge that the receipt followed; null if the answer was charged by the receipt itself. */
  readonly charge: { readonly id: Hex; readonly receiptBy: bigint } | null;
}

/** What an account earns from one part of one slice: the opening's value. */
export interface Entry {
  readonly account: Hex;
  readonly slice: bigint;
  readonly part: bigint;
  readonly opening: Opening;
}

export interface Balance {
  readonly account: Hex;
  readonly opening: Opening;
}

/** `GET /v1/receipts/{id}/proof`. */
export interface Proof {
  readonly header: Header;
  readonly spans: readonly Span[];
  readonly receipt: Opening;
  readonly entries: readonly Entry[];
  readonly balances: readonly Balance[];
}

/** `GET /v1/snapshots/{id}/manifest`: the accepted contributions of a snapshot by index. */
export interface Snapshot {
  readonly datanetId: bigint;
  readonly contributions: ReadonlyMap<bigint, { readonly contributor: Hex; readonly contentHash: Hex }>;
}

const MARKET = object({
  chain_id: integer(53),
  block_number: integer(53),
  block_hash: hash,
  addresses: object({
    Settlement: account,
    OperatorRegistry: account,
    AdapterRegistry: account,
    DatasetRegistry: account,
    Parameters: account,
  }),
});

/** Errors: MalformedDocument. */
export function readMarket(document: unknown): Market {
  const read = MARKET(document, "market");
  return {
    chainId: read.chain_id,
    blockNumber: read.block_number,
    blockHash: read.block_hash,
    addresses: read.addresses,
  };
}

/** Fields of a schema of the API: a name that the API does not have is a type error. */
type Fields<S extends keyof components["schemas"]> = {
  readonly [K in keyof components["schemas"][S]]?: Reader<unknown>;
};

const BODY = object({
  channel_id: hash,
  cumulative: decimal(128),
  charge: decimal(128),
  request_hash: hash,
  response_hash: hash,
  slices_hash: hash,
  prompt_tokens: integer(32),
  completion_tokens: integer(32),
  attribution_hash: hash,
  served_at: integer(64),
} satisfies Fields<"ReceiptBody">);
const SLICE = object({
  version_id: hash,
  weight_ppm: integer(32),
  packed: hexItems(8, MAX_SHARES),
} satisfies Fields<"SliceBody">);
const RECEIPT = object({
  id: hash,
  operator: account,
  receipt: BODY,
  method: matching(/^[!-~]{1,32}$/, "a method of 1 to 32 characters"),
  slices: listOf(SLICE, 1, MAX_SLICES),
  signature: hex(65),
} satisfies Fields<"ReceiptDetail">);
const SALT = nullable(hash);
const CHARGE = nullable(object({ id: hash, receipt_by: integer(64) } satisfies Fields<"ChargeStamp">));

/** The id of a charge, in any case; null for none. Errors: MalformedDocument. */
export function readChargeId(id: unknown): Hex | null {
  return nullable(hash)(typeof id === "string" ? id.toLowerCase() : (id ?? null), "charge");
}

/** Errors: MalformedDocument, which names the first missing or malformed field. */
export function readReceipt(document: unknown): ReceiptFile {
  const read = RECEIPT(document, "receipt");
  const body = read.receipt;
  const optional = document as { salt?: unknown; signed_charge?: unknown };
  const charge = CHARGE(optional.signed_charge ?? null, "receipt.signed_charge");
  return {
    id: read.id,
    operator: read.operator,
    receipt: {
      channelId: body.channel_id,
      cumulative: body.cumulative,
      charge: body.charge,
      requestHash: body.request_hash,
      responseHash: body.response_hash,
      slicesHash: body.slices_hash,
      promptTokens: body.prompt_tokens,
      completionTokens: body.completion_tokens,
      attributionHash: body.attribution_hash,
      servedAt: body.served_at,
    },
    method: read.method,
    slices: read.slices.map((slice) => ({
      versionId: slice.version_id,
      weightPpm: slice.weight_ppm,
      shares: unpackList(slice.packed),
    })),
    signature: read.signature,
    salt: SALT(optional.salt ?? null, "receipt.salt"),
    charge: charge && { id: charge.id, receiptBy: charge.receipt_by },
  };
}

/** Shares of a packed list: `position 4 ‖ ppm 4` each. */
export function unpackList(packed: Hex): Share[] {
  return itemsOf(packed, 8).map((item) => {
    return { position: BigInt(`0x${item.slice(0, 8)}`), ppm: BigInt(`0x${item.slice(8)}`) };
  });
}

const OPENING = object({
  index: integer(32),
  value: decimal(128),
  path: hexItems(48, MAX_PATH),
} satisfies Fields<"OpeningView">);
const HEADER = object({
  operator: account,
  number: decimal(64),
  parent: hash,
  parameterSet: decimal(32),
  committedAt: decimal(64),
  finalAt: decimal(64),
  finalBlock: decimal(64),
  total: decimal(128),
  cumulativeTotal: decimal(128),
  slashUpTo: decimal(128),
  spansHash: hash,
  receiptsRoot: hash,
  receiptsCount: decimal(32),
  entriesRoot: hash,
  entriesCount: decimal(32),
  balancesRoot: hash,
  balancesCount: decimal(32),
  dataDigest: hash,
});
const ENTRY = object({
  account,
  slice: integer(16),
  part: integer(16),
  opening: OPENING,
} satisfies Fields<"EntryProofView">);
const PROOF = object({
  header: HEADER,
  spans: hexItems(80, MAX_SPANS),
  receipt: OPENING,
  entries: listOf(ENTRY),
  balances: listOf(object({ account, opening: OPENING } satisfies Fields<"BalanceProofView">)),
} satisfies Fields<"ReceiptProofView">);

/** Errors: MalformedDocument. */
export function readProof(document: unknown): Proof {
  const read = PROOF(document, "proof");
  return { ...read, spans: unpackSpans(read.spans) };
}

/** Spans of a batch: `channelId 32 ‖ before 16 ‖ from 16 ‖ until 16` each. */
export function unpackSpans(packed: Hex): Span[] {
  return itemsOf(packed, 80).map((item) => {
    const amount = (at: number) => BigInt(`0x${item.slice(at, at + 32)}`);
    return { channelId: `0x${item.slice(0, 64)}`, before: amount(64), from: amount(96), until: amount(128) };
  });
}

const RECORD = object({
  creator: account,
  name: hash,
  adapterDigest: hash,
  cidDigest: hash,
  baseModel: hash,
  snapshots: listOf(hash, 0, MAX_SNAPSHOTS),
  promptPrice: decimal(64),
  completionPrice: decimal(64),
  operatorPpm: decimal(32),
  creatorPpm: decimal(32),
});
const VERSION = object({ record: RECORD } satisfies Fields<"VersionView">);

/** Records of `GET /v1/versions/{id}` by their id, which is computed. Errors: MalformedDocument. */
export function readVersions(documents: readonly unknown[]): ReadonlyMap<Hex, VersionRecord> {
  const records = documents.map((document, at) => VERSION(document, `versions[${at}]`).record);
  return new Map(records.map((record) => [versionId(record), record]));
}

/** Bits of a contribution's index in a position. */
const INDEX_BITS = 24;
const FORMAT = "loraledger-snapshot-1";
const MANIFEST = object({
  format: matching(new RegExp(`^${FORMAT}$`), JSON.stringify(FORMAT)),
  datanetId: integer(53),
  count: integer(INDEX_BITS),
  contributions: listOf(object({ index: integer(INDEX_BITS), contributor: account, contentHash: hash })),
});

/**
 * Manifests of `GET /v1/snapshots/{id}/manifest` by their id, which is computed. Errors: MalformedDocument.
 */
export function readSnapshots(documents: readonly unknown[]): ReadonlyMap<Hex, Snapshot> {
  return new Map(documents.map((document, at) => readSnapshot(document, `snapshots[${at}]`)));
}

function readSnapshot(document: unknown, path: string): [Hex, Snapshot] {
  const { datanetId, count, contributions } = MANIFEST(document, path);
  const outside = contributions.find((contribution) => contribution.index >= count);
  if (outside !== undefined) {
    const where = `${path}.contributions`;
    throw new MalformedDocument(`${where} has index ${outside.index}, but the count is ${count}`, where);
  }
  const accepted = acceptedHash(
    Number(count),
    contributions.map(({ index }) => Number(index)),
  );
  const byIndex = new Map(contributions.map(({ index, ...rest }) => [index, rest]));
  return [snapshotId(datanetId, count, accepted), { datanetId, contributions: byIndex }];
}

function itemsOf(packed: Hex, size: number): string[] {
  return packed.slice(2).match(new RegExp(`.{${2 * size}}`, "g")) ?? [];
}
