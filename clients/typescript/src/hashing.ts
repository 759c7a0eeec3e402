/** Ids and hashes of everything that is not an EIP-712 message. Source: docs/protocol.md. */

import { concat, type Hex, keccak, nameWord, textBytes, toBytes, uint, words } from "./encoding.ts";

/** One item of an attribution list: `position` is snapshot number << 24 | contribution index. */
export interface Share {
  readonly position: bigint;
  readonly ppm: bigint;
}

/** One adapter version's part of an answer, with its attribution. */
export interface Slice {
  readonly versionId: Hex;
  readonly weightPpm: bigint;
  readonly shares: readonly Share[];
}

/** Solidity's `VersionRecord`. Prices in token units per million tokens, which are micro-units per token. */
export interface VersionRecord {
  readonly creator: Hex;
  readonly name: Hex;
  readonly adapterDigest: Hex;
  readonly cidDigest: Hex;
  readonly baseModel: Hex;
  readonly snapshots: readonly Hex[];
  readonly promptPrice: bigint;
  readonly completionPrice: bigint;
  readonly operatorPpm: bigint;
  readonly creatorPpm: bigint;
}

/** The interval of a channel's cumulative that a batch collects, in micro-units. */
export interface Span {
  readonly channelId: Hex;
  readonly before: bigint;
  readonly from: bigint;
  readonly until: bigint;
}

/** Solidity's `BatchHeader` in its field order. Times in unix seconds, amounts in micro-units. */
export interface Header {
  readonly operator: Hex;
  readonly number: bigint;
  readonly parent: Hex;
  readonly parameterSet: bigint;
  readonly committedAt: bigint;
  readonly finalAt: bigint;
  readonly finalBlock: bigint;
  readonly total: bigint;
  readonly cumulativeTotal: bigint;
  readonly slashUpTo: bigint;
  readonly spansHash: Hex;
  readonly receiptsRoot: Hex;
  readonly receiptsCount: bigint;
  readonly entriesRoot: Hex;
  readonly entriesCount: bigint;
  readonly balancesRoot: Hex;
  readonly balancesCount: bigint;
  readonly dataDigest: Hex;
}

export function channelId(payer: Hex, operator: Hex, collector: Hex): Hex {
  return keccak(words(payer, operator, collector));
}

/** `keccak(abi.encode(record))`. The struct is dynamic: an offset comes first, `snapshots` last. */
export function versionId(record: VersionRecord): Hex {
  const { snapshots, ...r } = record;
  const head = words(0x20n, r.creator, r.name, r.adapterDigest, r.cidDigest, r.baseModel, 10n * 32n);
  const terms = words(r.promptPrice, r.completionPrice, r.operatorPpm, r.creatorPpm);
  return keccak(concat(head, terms, words(BigInt(snapshots.length), ...snapshots)));
}

/** Hash of the accept bits of `count` contributions, of which `accepted` are the indices that are set. */
export function acceptedHash(count: number, accepted: Iterable<number>): Hex {
  const packed = new Uint8Array(Math.ceil(count / 256) * 32);
  for (const index of accepted) {
    const at = (index >> 8) * 32 + 31 - ((index & 0xff) >> 3);
    packed[at] = packed[at]! | (1 << (index & 7));
  }
  return keccak(packed);
}

export function snapshotId(datanetId: bigint, count: bigint, accepted: Hex): Hex {
  return keccak(words(datanetId, count, accepted));
}

/** Hash of a request or response. Only the payer gets the salt. */
export function saltedHash(salt: Hex, data: Uint8Array): Hex {
  return keccak(concat(toBytes(salt), data));
}

/** The texts of an answer's choices, each after its length in 8 bytes. */
export function responseBytes(choices: readonly string[]): Uint8Array {
  const encoded = choices.map(textBytes);
  return concat(...encoded.flatMap((text) => [uint(BigInt(text.length), 8), text]));
}

/** `position 4 ‖ ppm 4` of each share. */
export function packList(shares: readonly Share[]): Uint8Array {
  return concat(...shares.flatMap((share) => [uint(share.position, 4), uint(share.ppm, 4)]));
}

export function slicesHash(slices: readonly Slice[]): Hex {
  return keccak(concat(...slices.flatMap((slice) => [toBytes(slice.versionId), uint(slice.weightPpm, 4)])));
}

/** `method`: at most 32 characters. */
export function attributionHash(method: string, slices: readonly Slice[]): Hex {
  const lists = slices.map((slice) => toBytes(keccak(packList(slice.shares))));
  return keccak(concat(nameWord(method), ...lists));
}

export function spansHash(spans: readonly Span[]): Hex {
  const amounts = (span: Span) => [span.before, span.from, span.until].map((amount) => uint(amount, 16));
  return keccak(concat(...spans.flatMap((span) => [toBytes(span.channelId), ...amounts(span)])));
}

export function batchHash(header: Header): Hex {
  const h = header;
  const times = [h.committedAt, h.finalAt, h.finalBlock];
  const totals = [h.total, h.cumulativeTotal, h.slashUpTo];
  const receipts = [h.receiptsRoot, h.receiptsCount] as const;
  const entries = [h.entriesRoot, h.entriesCount] as const;
  const balances = [h.balancesRoot, h.balancesCount] as const;
  const trees = [...receipts, ...entries, ...balances];
  const named = [h.operator, h.number, h.parent, h.parameterSet] as const;
  return keccak(words(...named, ...times, ...totals, h.spansHash, ...trees, h.dataDigest));
}
