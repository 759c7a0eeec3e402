/** The vectors that Solidity and Python read, read by TypeScript. */

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";

import { sliceCharge, split, sumOf } from "../../../../clients/typescript/src/charge.ts";
import { unpackList, unpackSpans } from "../../../../clients/typescript/src/documents.ts";
import { type Hex, keccak, toBytes } from "../../../../clients/typescript/src/encoding.ts";
import {
  acceptedHash,
  attributionHash,
  batchHash,
  channelId,
  type Header,
  type Slice,
  slicesHash,
  snapshotId,
  spansHash,
  versionId,
  type VersionRecord,
} from "../../../../clients/typescript/src/hashing.ts";
import {
  BALANCES_TAG,
  ENTRIES_TAG,
  entryKey,
  RECEIPTS_TAG,
  resolve,
} from "../../../../clients/typescript/src/merkle.ts";
import {
  digestOf,
  domainSeparator,
  type Messages,
  structHash,
} from "../../../../clients/typescript/src/messages.ts";
import { recover } from "../../../../clients/typescript/src/signatures.ts";
import { BALANCES, type Case, ENTRIES, example, RECEIPTS, Tree, typed, vectors, VECTORS } from "./support.ts";

/** Message types by the file that has their digests. */
const DIGESTS: Record<string, keyof Messages> = {
  receipts: "Receipt",
  signed_charges: "Charge",
  vouchers: "Voucher",
  grants: "SessionGrant",
  revocations: "SessionRevocation",
  moves: "ChannelMove",
  contributions: "Contribution",
  payouts: "PayoutChange",
  receipt_keys: "ReceiptKey",
};

const CHECKS: Record<string, (item: Case) => void> = {
  attributions: checkAttribution,
  batches: checkBatch,
  channels: (item) => assert.equal(channelId(item.payer, item.operator, item.collector), item.channelId),
  charges: checkCharge,
  openings: checkOpening,
  snapshots: checkSnapshot,
  splits: checkSplit,
  versions: (item) => assert.equal(versionId(typed<VersionRecord>(item)), item.versionId),
};

/** Files of which no check is made here, and why. */
const NOT_COVERED: Record<string, string> = {
  disputes:
    "demands, look-ups of keys and calls of fraud proofs: watchers make them, and no verification of a receipt",
};

test("every vector file is checked, or listed with the reason why not", () => {
  const files = readdirSync(VECTORS).map((file) => file.replace(/\.json$/, ""));
  const known = [...Object.keys(CHECKS), ...Object.keys(DIGESTS), ...Object.keys(NOT_COVERED), "example"];
  assert.deepEqual(files.sort(), known.sort());
});

for (const [subject, check] of Object.entries(CHECKS)) {
  test(`${subject} agree with the vectors`, () => vectors(subject).forEach(check));
}

for (const [subject, type] of Object.entries(DIGESTS)) {
  test(`digests of ${subject} agree with the vectors`, () => {
    for (const { chainId, contract, digest, receiptId, chargeId, ...fields } of vectors(subject)) {
      const message = typed<Messages[typeof type]>(fields);
      assert.equal(digestOf({ chainId: BigInt(chainId), contract }, type, message), digest);
      const id = receiptId ?? chargeId;
      if (id !== undefined) assert.equal(structHash(type, message), id);
    }
  });
}

function checkAttribution({ method, versionIds, weightsPpm, lists, ...expected }: Case): void {
  const slices: Slice[] = lists.map((list: Hex, at: number) => {
    return { versionId: versionIds[at], weightPpm: BigInt(weightsPpm[at]), shares: unpackList(list) };
  });
  const name = new TextDecoder().decode(toBytes(method)).replace(/\0+$/, "");
  assert.equal(slicesHash(slices), expected.slicesHash);
  assert.equal(attributionHash(name, slices), expected.attributionHash);
}

function checkBatch({ spans, ...item }: Case): void {
  assert.equal(batchHash(typed<Header>(item)), item.batchHash);
  assert.equal(spansHash(unpackSpans(spans)), item.spansHash);
}

function checkCharge(item: Case): void {
  const { weightPpm, promptTokens, completionTokens, charge, ...prices } =
    typed<Record<string, bigint>>(item);
  const { promptPrice, completionPrice } = prices as { promptPrice: bigint; completionPrice: bigint };
  const found = sliceCharge(weightPpm!, { promptPrice, completionPrice }, promptTokens!, completionTokens!);
  assert.equal(found, charge);
}

function checkOpening({ tag, key, count, index, value, path, ...expected }: Case): void {
  const opened = resolve(tag, key, BigInt(count), { index: BigInt(index), value: BigInt(value), path });
  assert.equal(opened.root, expected.root);
  assert.deepEqual([opened.total, opened.prefix], [BigInt(expected.sum), BigInt(expected.prefix)]);
}

function checkSnapshot({ datanetId, count, accepted, ...expected }: Case): void {
  const words = (accepted as string)
    .slice(2)
    .match(/.{64}/g)!
    .map((word) => BigInt(`0x${word}`));
  const indices = Array.from({ length: Number(count) }, (_, index) => index);
  const isAccepted = (index: number) => (words[index >> 8]! >> BigInt(index & 255)) & 1n;
  assert.equal(acceptedHash(Number(count), indices.filter(isAccepted)), expected.acceptedHash);
  assert.equal(snapshotId(BigInt(datanetId), BigInt(count), expected.acceptedHash), expected.snapshotId);
}

function checkSplit({ list, parts, ...item }: Case): void {
  const { charge, feePpm, operatorPpm, creatorPpm, ...expected } = typed<Record<string, bigint>>(item);
  const found = split(charge!, feePpm!, operatorPpm!, creatorPpm!, unpackList(list));
  assert.deepEqual(found.contributors, (parts as string[]).map(BigInt));
  const sums = { fee: found.fee, operator: found.operator, creator: found.creator };
  assert.deepEqual({ ...sums, contributors: sumOf(found.contributors) }, expected);
}

test("the worked example has the same ids, signatures, trees and header", () => {
  const { chainId, settlement, domainSeparator: separator, receiptKey } = example("market");
  const domain = { chainId: BigInt(chainId), contract: settlement as Hex };
  assert.equal(domainSeparator(domain), separator);
  for (const named of ["adapter", "base"]) {
    const { name, word, versionId: id, ...record } = example(named);
    assert.equal(versionId(typed<VersionRecord>({ ...record, name: word })), id);
  }
  for (const number of [0, 1, 2]) {
    const { digest, structHash: id, signature, ...receipt } = example(`receipt ${number}`);
    assert.equal(structHash("Receipt", typed<Messages["Receipt"]>(receipt)), id);
    assert.equal(digestOf(domain, "Receipt", typed<Messages["Receipt"]>(receipt)), digest);
    assert.equal(recover(digest, signature), receiptKey);
  }
  const roots = [RECEIPTS, new Tree(ENTRIES_TAG, ENTRIES), new Tree(BALANCES_TAG, BALANCES)].map(
    (tree) => tree.root,
  );
  const names = ["receipts tree", "entries tree", "balances tree"];
  assert.deepEqual(
    roots,
    names.map((name) => example(name).root),
  );
  assert.deepEqual(
    [RECEIPTS_TAG, ENTRIES_TAG, BALANCES_TAG],
    names.map((name) => example(name).tag),
  );
  const { creator } = example("adapter");
  assert.equal(entryKey(creator, 0n, 0n, 2n), example("entry 0").key);
  const { account, balancesCount, index, value, path } = example("claim");
  const opening = { index: BigInt(index), value: BigInt(value), path };
  const opened = resolve(BALANCES_TAG, account, BigInt(balancesCount), opening);
  assert.equal(opened.root, example("header").balancesRoot);
  assert.equal(batchHash(typed<Header>(example("header"))), example("header").batchHash);
  assert.equal(spansHash(unpackSpans(example("spans").spans)), keccak(toBytes(example("spans").spans)));
});
