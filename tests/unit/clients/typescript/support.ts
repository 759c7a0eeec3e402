/** Documents of the worked example (tests/vectors/example.json), and a node that has its chain. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

import { secp256k1 } from "@noble/curves/secp256k1.js";

import { unpackList } from "../../../../clients/typescript/src/documents.ts";
import {
  concat,
  type Hex,
  keccak,
  textBytes,
  toBytes,
  toHex,
  uint,
  words,
} from "../../../../clients/typescript/src/encoding.ts";
import {
  attributionHash,
  batchHash,
  type Header,
  saltedHash,
  type Slice,
} from "../../../../clients/typescript/src/hashing.ts";
import { responseBytes, slicesHash } from "../../../../clients/typescript/src/hashing.ts";
import { BALANCES_TAG, ENTRIES_TAG, RECEIPTS_TAG } from "../../../../clients/typescript/src/merkle.ts";
import { digestOf, type Receipt, structHash } from "../../../../clients/typescript/src/messages.ts";

export const ROOT = join(import.meta.dirname, "../../../..");
export const VECTORS = join(ROOT, "tests/vectors");

/** A case of a vector file: hex and decimal strings. */
export type Case = Record<string, any>;
/** A JSON document that a test may change. */
export type Document = Record<string, any>;

export function vectors(subject: string): Case[] {
  return JSON.parse(readFileSync(join(VECTORS, `${subject}.json`), "utf8"));
}

/** A vector's fields as a message or record: decimal strings become integers. */
export function typed<T>(fields: Case): T {
  const value = (found: unknown): unknown => {
    if (Array.isArray(found)) return found.map(value);
    return typeof found === "string" && /^[0-9]+$/.test(found) ? BigInt(found) : found;
  };
  return Object.fromEntries(Object.entries(fields).map(([name, found]) => [name, value(found)])) as T;
}

export function addressOf(secretKey: Uint8Array): Hex {
  return `0x${keccak(secp256k1.getPublicKey(secretKey, false).subarray(1)).slice(26)}`;
}

export function sign(digest: Hex, secretKey: Uint8Array): Hex {
  const signed = secp256k1.sign(toBytes(digest), secretKey, { prehash: false, format: "recovered" });
  return toHex(concat(signed.subarray(1), uint(BigInt(27 + signed[0]!), 1)));
}

/** A tree of leaves in their order, from which a leaf is opened. */
export class Tree {
  readonly #levels: Uint8Array[][];

  constructor(tag: Hex, leaves: readonly (readonly [key: Hex, value: bigint])[]) {
    const hash = (key: Hex) => toBytes(keccak(concat(toBytes(tag), toBytes(key))));
    this.#levels = [leaves.map(([key, value]) => concat(uint(value, 16), hash(key)))];
    for (let level = this.#levels[0]!; level.length > 1; this.#levels.push(level)) level = parents(level);
  }

  get root(): Hex {
    return toHex(this.#levels.at(-1)![0]!.subarray(16));
  }

  /** As the API shows it. */
  open(index: number): Document {
    const siblings = this.#levels.slice(0, -1).map((level, height) => level[(index >> height) ^ 1]);
    const path = concat(...siblings.filter((sibling) => sibling !== undefined));
    const value = BigInt(toHex(this.#levels[0]![index]!.subarray(0, 16)));
    return { index, value: value.toString(), path: toHex(path) };
  }
}

function parents(level: readonly Uint8Array[]): Uint8Array[] {
  const sum = (node: Uint8Array) => BigInt(toHex(node.subarray(0, 16)));
  return Array.from({ length: Math.ceil(level.length / 2) }, (_, at) => {
    const [left, right] = [level[2 * at]!, level[2 * at + 1]];
    if (right === undefined) return left;
    return concat(uint(sum(left) + sum(right), 16), toBytes(keccak(concat(left, right))));
  });
}

const cases = new Map(vectors("example").map((item) => [item.name as string, item]));
export function example(name: string): Case {
  const found = cases.get(name);
  if (found === undefined) throw new Error(`no case ${name}`);
  return found;
}

export const RECEIPT_KEY = toBytes(keccak(textBytes("receipt key")));
export const SALT: Hex = `0x${"00".repeat(32)}`;
const some = (label: string): Hex => `0x${keccak(textBytes(label)).slice(26)}`;
const { chainId, settlement, operator, treasury, feePpm } = example("market");

export const MARKET = {
  chain_id: Number(chainId),
  block_number: 7,
  block_hash: keccak(textBytes("block 7")),
  addresses: {
    Settlement: settlement as Hex,
    OperatorRegistry: some("operators"),
    AdapterRegistry: some("adapters"),
    DatasetRegistry: some("datasets"),
    Parameters: some("parameters"),
  },
};

/** `GET /v1/receipts/{id}` of receipt `number` of the example. */
export function receiptDocument(number: number): Document {
  const found = example(`receipt ${number}`);
  const packed = (found.slices as string).slice(2).match(/.{72}/g)!;
  return {
    id: found.structHash,
    operator,
    payer: found.payer,
    receipt: {
      channel_id: found.channelId,
      cumulative: found.cumulative,
      charge: found.charge,
      request_hash: found.requestHash,
      response_hash: found.responseHash,
      slices_hash: found.slicesHash,
      prompt_tokens: Number(found.promptTokens),
      completion_tokens: Number(found.completionTokens),
      attribution_hash: found.attributionHash,
      served_at: Number(found.servedAt),
    },
    method: found.method,
    slices: packed.map((slice, at) => ({
      version_id: `0x${slice.slice(0, 64)}`,
      weight_ppm: Number(`0x${slice.slice(64)}`),
      packed: found.lists[at],
    })),
    signature: found.signature,
    salt: SALT,
  };
}

/** The receipt with other slices, tokens or charge, signed by the operator's key. */
export function resigned(
  document: Document,
  domain = { chainId: 31337n, contract: settlement as Hex },
): Document {
  const slices: Slice[] = document.slices.map((slice: Document) => ({
    versionId: slice.version_id,
    weightPpm: BigInt(slice.weight_ppm),
    shares: unpackList(slice.packed),
  }));
  const hashes = {
    slices_hash: slicesHash(slices),
    attribution_hash: attributionHash(document.method, slices),
  };
  const body = { ...document.receipt, ...hashes };
  const camel = (name: string) => name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
  const fields = Object.entries(body).map(([name, value]) => [camel(name), String(value)]);
  const receipt = typed<Receipt>(Object.fromEntries(fields));
  const signature = sign(digestOf(domain, "Receipt", receipt), RECEIPT_KEY);
  return { ...document, receipt: body, id: structHash("Receipt", receipt), signature };
}

const leavesOf = (kind: string, count: number) =>
  Array.from({ length: count }, (_, at) => example(`${kind} ${at}`)).map((item) => {
    return [item.key as Hex, BigInt(item.value)] as const;
  });
export const RECEIPTS = new Tree(
  RECEIPTS_TAG,
  [0, 1, 2]
    .map((at) => example(`receipt ${at}`))
    .map((item) => [item.structHash as Hex, BigInt(item.charge)]),
);
export const ENTRIES = leavesOf("entry", 16);
export const BALANCES = leavesOf("balance", 5);

/** `GET /v1/receipts/{id}/proof` of receipt `number`, of a batch with these entries. */
export function proofDocument(number: number, entries = ENTRIES): Document {
  const [entriesTree, balancesTree] = [new Tree(ENTRIES_TAG, entries), new Tree(BALANCES_TAG, BALANCES)];
  const { name, batchHash: _, ...header } = example("header");
  const own = entries.flatMap(([key], at) => {
    const [account, place] = [`0x${key.slice(10, 50)}`, BigInt(`0x${key.slice(50)}`)];
    if (place >> 32n !== BigInt(number)) return [];
    const where = { slice: Number((place >> 16n) & 0xffffn), part: Number(place & 0xffffn) };
    return [{ account, ...where, opening: entriesTree.open(at) }];
  });
  own.sort((one, other) => one.slice - other.slice || one.part - other.part);
  const accounts = new Set(own.map((entry) => entry.account));
  const balances = BALANCES.map(([key], at) => ({
    account: `0x${key.slice(26)}`,
    opening: balancesTree.open(at),
  }));
  return {
    header: { ...header, entriesRoot: entriesTree.root },
    spans: example("spans").spans,
    receipt: RECEIPTS.open(number),
    entries: own,
    balances: balances.filter((balance) => accounts.has(balance.account)),
  };
}

/** `GET /v1/versions/{id}` of both versions. */
export const VERSIONS: Document[] = ["adapter", "base"].map((named) => {
  const { name, word: nameWord, versionId, ...record } = example(named);
  return { id: versionId, record: { ...record, name: nameWord } };
});

const { contributors, contents, snapshotId, acceptedHash } = example("snapshot");
/** `GET /v1/snapshots/{id}/manifest`. */
export const MANIFEST: Document = {
  format: "loraledger-snapshot-1",
  snapshotId,
  datanetId: 1,
  count: 3,
  acceptedHash,
  contributions: [0, 2].map((index) => ({
    index,
    contributor: contributors[index],
    contentHash: contents[index],
  })),
};

/** All documents of receipt `number`, as options of `verifyReceipt` and the receipt itself. */
export function documents(number = 1): { receipt: Document; evidence: Document } {
  const evidence = { proof: proofDocument(number), versions: VERSIONS, snapshots: [MANIFEST] };
  return structuredClone({ receipt: receiptDocument(number), evidence });
}

/** Request and answers to which all receipts of the example commit. */
export const CONTENT = { request: textBytes("{}"), answers: ["Paris."] };
if (saltedHash(SALT, responseBytes(CONTENT.answers)) !== example("receipt 0").responseHash)
  throw new Error("other answer");

/** What the contracts say, by the text of each call. */
export interface ChainState {
  readonly chainId: number;
  readonly blockHash: string;
  /** `<contract>.<selector of the signature><arguments>` -> words. */
  readonly views: ReadonlyMap<string, readonly (bigint | Hex)[]>;
}

/** The key of a call in `ChainState.views`. */
export function view(
  contract: keyof typeof MARKET.addresses,
  signature: string,
  ...values: (bigint | Hex)[]
): string {
  const selector = keccak(textBytes(signature)).slice(0, 10);
  return `${MARKET.addresses[contract]} ${selector}${toHex(words(...values)).slice(2)}`;
}

export function batchViews(header: Document, finalised = 0n): [string, (bigint | Hex)[]][] {
  const hash = batchHash(typed<Header>(header));
  return [
    [view("Settlement", "batchHashAt(address,uint64)", operator, BigInt(header.number)), [hash]],
    [view("Settlement", "stateOf(address)", operator), [1n, 0n, 1n, finalised, 0n]],
  ];
}

const receiptKey = addressOf(RECEIPT_KEY);
/** The example's chain: its batch is pending. */
export const VIEWS: [string, (bigint | Hex)[]][] = [
  [view("OperatorRegistry", "operatorOfKey(address)", receiptKey), [operator]],
  [view("OperatorRegistry", "retiredAt(address)", receiptKey), [0n]],
  ...VERSIONS.map(({ id }): [string, bigint[]] => {
    return [view("AdapterRegistry", "versionOf(bytes32)", id), [1_789_000_000n, 0n, 0n]];
  }),
  [view("Parameters", "setAt(uint32)", 0n), [treasury, BigInt(feePpm), 0n, 0n, 0n, 0n, 0n, 0n]],
  ...[0, 2].map((index): [string, (bigint | Hex)[]] => {
    const call = view("DatasetRegistry", "contributionOf(uint64,bytes32)", 1n, contents[index]);
    return [call, [contributors[index], BigInt(index), 1n]];
  }),
  ...batchViews(proofDocument(1).header),
];

/** `fetch` of a node. Views that the state does not name return zero words, as the contracts' mappings do. */
export function nodeOf(state: Partial<ChainState> = {}): typeof fetch {
  const { chainId = MARKET.chain_id, blockHash = MARKET.block_hash, views = new Map(VIEWS) } = state;
  const zeros = { "0x": 8 } as Record<string, number>;
  for (const [key, values] of VIEWS) zeros[key.slice(0, 53)] = values.length;
  const answers: Record<string, (params: any[]) => unknown> = {
    eth_chainId: () => `0x${chainId.toString(16)}`,
    eth_getBlockByNumber: () => ({ hash: blockHash }),
    eth_call: ([{ to, data }]) => {
      const key = `${to} ${data}`;
      const found = views.get(key) ?? Array<bigint>(zeros[key.slice(0, 53)] ?? 1).fill(0n);
      return toHex(words(...found));
    },
  };
  return async (_url, init) => {
    const { id, method, params } = JSON.parse(String(init?.body));
    return Response.json({ jsonrpc: "2.0", id, result: answers[method]!(params) });
  };
}
