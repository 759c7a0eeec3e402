/** A receipt of the worked example, right and with one thing wrong at a time. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { secp256k1 } from "@noble/curves/secp256k1.js";

import {
  type Hex,
  keccak,
  textBytes,
  toBytes,
  toHex,
  uint,
} from "../../../../clients/typescript/src/encoding.ts";
import { type Options, readReceipt, verifyReceipt } from "../../../../clients/typescript/src/index.ts";
import { structHash } from "../../../../clients/typescript/src/messages.ts";
import {
  batchViews,
  CONTENT,
  type Document,
  documents,
  ENTRIES,
  example,
  MARKET,
  nodeOf,
  proofDocument,
  RECEIPT_KEY,
  resigned,
  sign,
  addressOf,
  VIEWS,
  view,
} from "./support.ts";

const RPC = "http://node.invalid";
const OTHER = keccak(textBytes("another"));
type Views = [string, (bigint | Hex)[]][];

/** Names of the checks by their results. */
async function verdict(
  receipt: Document,
  evidence: Document,
  more: Views = [],
  options: Partial<Options> = {},
) {
  const chain = { rpc: RPC, fetch: nodeOf({ views: new Map([...VIEWS, ...more]) }) };
  const { checks, isRight } = await verifyReceipt(receipt, {
    market: MARKET,
    ...evidence,
    ...chain,
    ...options,
  });
  const named = (result: boolean | null) =>
    checks.filter((check) => check.isRight === result).map(({ name }) => name);
  const texts = Object.fromEntries(checks.map(({ name, message }) => [name, message]));
  return { isRight, right: named(true), wrong: named(false), open: named(null), texts };
}

for (const number of [0, 1, 2]) {
  test(`receipt ${number} of the worked example is right in every way`, async () => {
    const { receipt, evidence } = documents(number);
    const found = await verdict(receipt, evidence, [], { content: CONTENT });
    const names = ["hash", "signature", "slices", "charge", "batch", "earnings", "content"];
    assert.deepEqual([found.isRight, found.right], [true, names]);
    assert.match(found.texts.batch!, /leaf \d of 3 of batch 1 \(pending\)/);
  });
}

test("a final batch is shown as final", async () => {
  const { receipt, evidence } = documents();
  const found = await verdict(receipt, evidence, batchViews(evidence.proof.header, 1n));
  assert.match(found.texts.batch!, /batch 1 \(final\)/);
});

test("without a node, what only the chain knows is open", async () => {
  const { receipt, evidence } = documents();
  const found = await verdict(receipt, evidence, [], { rpc: undefined });
  assert.deepEqual(found.right, ["hash", "slices"]);
  assert.deepEqual([found.isRight, found.wrong], [null, []]);
});

test("without evidence, a node alone proves the signature", async () => {
  const found = await verdict(documents().receipt, {});
  assert.deepEqual(found.right, ["hash", "signature", "slices"]);
  assert.deepEqual(found.open, ["charge", "batch", "earnings"]);
});

test("an unsettled receipt without charge needs no shares", async () => {
  const { receipt, evidence } = documents();
  const free = { ...receipt.receipt, charge: "0", prompt_tokens: 0, completion_tokens: 0 };
  const found = await verdict(resigned({ ...receipt, receipt: free }), { ...evidence, proof: undefined });
  assert.deepEqual([found.wrong, found.open], [[], ["batch", "earnings"]]);
});

/** The signature that is valid for the same message, with the other `s`. */
function malleated(signature: Hex): Hex {
  const s = secp256k1.Point.CURVE().n - BigInt(`0x${signature.slice(66, 130)}`);
  const v = signature.endsWith("1b") ? "1c" : "1b";
  return `${signature.slice(0, 66) as Hex}${toHex(uint(s, 32)).slice(2)}${v}`;
}

function withSlice(receipt: Document, change: Document): Document {
  return { ...receipt, slices: [{ ...receipt.slices[0], ...change }, ...receipt.slices.slice(1)] };
}

/** Each makes one check fail, and no other. Without a proof, since the operator signed something else. */
const SIGNED_WRONGLY: Record<string, [reason: RegExp, change: (receipt: Document) => Document]> = {
  "a charge that is not that of its tokens": [
    /20266700 micro-units, not 20266701/,
    (receipt) => {
      return { ...receipt, receipt: { ...receipt.receipt, charge: "20266701" } };
    },
  ],
  "a share of a rejected contribution": [
    /position 1 is outside/,
    (receipt) => {
      return withSlice(receipt, { packed: "0x00000001000f4240" });
    },
  ],
  "a share of a snapshot that the version does not have": [
    /position 16777216 is outside/,
    (receipt) => {
      return withSlice(receipt, { packed: "0x01000000000f4240" });
    },
  ],
  "shares that are less than the whole": [
    /shares sum to 500000 ppm/,
    (receipt) => {
      return withSlice(receipt, { packed: "0x000000000007a120" });
    },
  ],
  "shares out of order": [
    /out of order/,
    (receipt) => {
      return withSlice(receipt, { packed: "0x000000020007a120000000000007a120" });
    },
  ],
  "an empty share": [
    /has no share/,
    (receipt) => withSlice(receipt, { packed: "0x00000000000f42400000000200000000" }),
  ],
  "no shares of a version with a snapshot": [
    /0 shares for 1 snapshots/,
    (receipt) => {
      return withSlice(receipt, { packed: "0x" });
    },
  ],
  "weights that are more than the whole": [
    /weights sum to/,
    (receipt) => withSlice(receipt, { weight_ppm: 999_999 }),
  ],
  "a slice without weight": [/no weight/, (receipt) => withSlice(receipt, { weight_ppm: 0 })],
};

for (const [what, [reason, change]] of Object.entries(SIGNED_WRONGLY)) {
  test(`an operator that signs ${what} fails the charge alone`, async () => {
    const { receipt, evidence } = documents();
    const found = await verdict(resigned(change(receipt)), { ...evidence, proof: undefined });
    assert.deepEqual([found.isRight, found.wrong], [false, ["charge"]]);
    assert.match(found.texts.charge!, reason);
  });
}

const FORGED: Record<
  string,
  [check: string, change: (receipt: Document, proof: Document) => Document | void]
> = {
  "another id": ["hash", (receipt) => ({ ...receipt, id: OTHER })],
  "the signature of another key": [
    "signature",
    (receipt) => ({ ...receipt, signature: sign(receipt.id, RECEIPT_KEY) }),
  ],
  "a malleated signature": [
    "signature",
    (receipt) => ({ ...receipt, signature: malleated(receipt.signature) }),
  ],
  "an unknown v": [
    "signature",
    (receipt) => ({ ...receipt, signature: `${receipt.signature.slice(0, 130)}1d` }),
  ],
  "a signature that no key made": [
    "signature",
    (receipt) => ({ ...receipt, signature: `0x${"00".repeat(64)}1b` }),
  ],
  "a signature for another chain": [
    "signature",
    (receipt) => {
      return resigned(receipt, { chainId: 1n, contract: MARKET.addresses.Settlement });
    },
  ],
  "a signature for another contract": [
    "signature",
    (receipt) => {
      return resigned(receipt, { chainId: 31337n, contract: MARKET.addresses.Parameters });
    },
  ],
  "other shares": ["slices", (receipt) => withSlice(receipt, { packed: "0x00000000000f4240" })],
  "other weights": ["slices", (receipt) => withSlice(receipt, { weight_ppm: 1 })],
  "another method": ["slices", (receipt) => ({ ...receipt, method: "uniform-2" })],
  "a changed sibling": [
    "batch",
    (_, proof) => void (proof.receipt.path = `${proof.receipt.path.slice(0, -2)}00`),
  ],
  "a path that is too short": ["batch", (_, proof) => void (proof.receipt.path = "0x")],
  "a path that is too long": ["batch", (_, proof) => void (proof.receipt.path += "00".repeat(48))],
  "an index outside the tree": ["batch", (_, proof) => void (proof.receipt.index = 3)],
  "a sum that does not fit": [
    "batch",
    (_, proof) => {
      proof.receipt.path = `0x${"ff".repeat(16)}${proof.receipt.path.slice(34)}`;
    },
  ],
  "another value of the leaf": ["batch", (_, proof) => void (proof.receipt.value = "1")],
  "other spans": ["batch", (_, proof) => void (proof.spans = `${proof.spans.slice(0, -2)}00`)],
  "a batch that the chain does not have under its number": [
    "batch",
    (_, proof) => void (proof.header.finalAt = "1"),
  ],
  "a batch of another operator": [
    "batch",
    (_, proof) => void (proof.header.operator = MARKET.addresses.Parameters),
  ],
  "an entry too few": ["earnings", (_, proof) => void proof.entries.pop()],
  "an entry of another account": [
    "earnings",
    (_, proof) => void (proof.entries[0].account = proof.entries[1].account),
  ],
  "a changed sibling of an entry": [
    "earnings",
    (_, proof) => {
      proof.entries[0].opening.path = `${proof.entries[0].opening.path.slice(0, -2)}00`;
    },
  ],
  "a balance too few": ["earnings", (_, proof) => void proof.balances.pop()],
  "another balance": ["earnings", (_, proof) => void (proof.balances[0].opening.value = "1")],
};

for (const [what, [check, change]] of Object.entries(FORGED)) {
  test(`${what} fails ${check} alone`, async () => {
    const { receipt, evidence } = documents();
    const forged = change(receipt, evidence.proof) ?? receipt;
    const found = await verdict(forged, evidence);
    assert.deepEqual(found.wrong, [check], JSON.stringify(found.texts, null, 1));
  });
}

test("a receipt that followed a charge is that charge's, or another's", async () => {
  const { receipt, evidence } = documents();
  const message = { ...readReceipt(receipt).receipt, receiptBy: 1_790_000_600n };
  const stamp = { id: structHash("Charge", message), receipt_by: 1_790_000_600, signature: null };
  const found = await verdict({ ...receipt, signed_charge: stamp }, evidence);
  assert.deepEqual([found.isRight, found.right.at(-1)], [true, "charged"]);
  const later = { ...stamp, receipt_by: stamp.receipt_by + 1 };
  assert.deepEqual((await verdict({ ...receipt, signed_charge: later }, evidence)).wrong, ["charged"]);
});

test("a receipt is compared with the charge that the payer got, whatever charge it states", async () => {
  const { receipt, evidence } = documents();
  const message = { ...readReceipt(receipt).receipt, receiptBy: 1_790_000_600n };
  const stamp = { id: structHash("Charge", message), receipt_by: 1_790_000_600, signature: null };
  const of = (document: Document, charge: Hex | null) => verdict(document, evidence, [], { charge });
  const stamped = { ...receipt, signed_charge: stamp };
  assert.deepEqual((await of(stamped, stamp.id)).right.at(-1), "charged");
  assert.deepEqual((await of(stamped, OTHER)).wrong, ["charged"]);
  assert.deepEqual((await of(receipt, stamp.id)).wrong, ["charged"]);
  const inUpperCase = `0x${stamp.id.slice(2).toUpperCase()}` as const;
  assert.deepEqual((await of(stamped, inUpperCase)).right.at(-1), "charged");
  assert.ok(!("charged" in (await of(receipt, null)).texts));
  for (const malformed of ["0x12", stamp.id.slice(2), `${stamp.id}\n`, ""]) {
    const refusal = { name: "MalformedDocument", param: "charge" };
    await assert.rejects(of(stamped, malformed as Hex), refusal);
  }
});

test("a malleated signature recovers to the same key, and is refused for its form", async () => {
  const { receipt, evidence } = documents();
  const found = await verdict({ ...receipt, signature: malleated(receipt.signature) }, evidence);
  assert.match(found.texts.signature!, /upper half/);
});

test("a receipt outside its place among the spans is wrong", async () => {
  const { receipt, evidence } = documents(0);
  const { proof } = evidence;
  proof.spans = proof.spans.replace(/^(0x.{96})0{32}/, `$1${"1".padStart(32, "0")}`); // `from` of its channel
  proof.header.spansHash = keccak(toBytes(proof.spans));
  const found = await verdict(receipt, evidence, batchViews(proof.header));
  assert.deepEqual(found.wrong, ["batch"]);
  assert.match(found.texts.batch!, /not in its place/);
});

test("an operator that commits another split fails the earnings alone", async () => {
  const { receipt, evidence } = documents(0);
  const moved: Record<number, bigint> = { 14: -1n, 2: 1n }; // from the first contributor to the operator
  const entries = ENTRIES.map(([key, value], at) => [key, value + (moved[at] ?? 0n)] as const);
  evidence.proof = proofDocument(0, entries);
  const found = await verdict(receipt, evidence, batchViews(evidence.proof.header));
  assert.equal(evidence.proof.header.entriesRoot, example("forged header").entriesRoot);
  assert.deepEqual(found.wrong, ["earnings"]);
  assert.match(found.texts.earnings!, /part 1 of slice 0/);
});

test("contributors are those of the registry, not of the manifest", async () => {
  const { receipt, evidence } = documents();
  const { contents } = example("snapshot");
  const call = view("DatasetRegistry", "contributionOf(uint64,bytes32)", 1n, contents[0]);
  for (const registered of [
    [MARKET.addresses.Parameters, 0n, 1n],
    [0n, 0n, 0n],
    [0n, 5n, 1n],
  ]) {
    const found = await verdict(receipt, evidence, [[call, registered as (bigint | Hex)[]]]);
    assert.deepEqual(found.wrong, ["earnings"]);
  }
});

test("a version that is not registered fails the charge alone", async () => {
  const { receipt, evidence } = documents();
  const call = view("AdapterRegistry", "versionOf(bytes32)", example("base").versionId);
  assert.deepEqual((await verdict(receipt, evidence, [[call, [0n, 0n, 0n]]])).wrong, ["charge"]);
});

test("records and manifests that are missing leave the charge open", async () => {
  const { receipt, evidence } = documents();
  for (const missing of ["versions", "snapshots"]) {
    const found = await verdict(receipt, { ...evidence, [missing]: [] });
    assert.deepEqual([found.wrong, found.open], [[], ["charge", "earnings"]]);
  }
  evidence.versions[0].record.promptPrice = "1"; // the record of no version that the receipt names
  assert.deepEqual((await verdict(receipt, evidence)).open, ["charge", "earnings"]);
});

test("a batch that the chain does not have is open", async () => {
  const { receipt, evidence } = documents();
  const [[committed]] = batchViews(evidence.proof.header) as [Views[0]];
  const found = await verdict(receipt, evidence, [[committed, [0n]]]);
  assert.deepEqual([found.wrong, found.open], [[], ["batch", "earnings"]]);
});

test("the signature of a retired key counts for a batch that was committed before", async () => {
  const { receipt, evidence } = documents();
  const retired = view("OperatorRegistry", "retiredAt(address)", addressOf(RECEIPT_KEY));
  const committedAt = BigInt(evidence.proof.header.committedAt);
  assert.equal((await verdict(receipt, evidence, [[retired, [committedAt]]])).isRight, true);
  const late = await verdict(receipt, evidence, [[retired, [committedAt - 1n]]]);
  assert.deepEqual([late.wrong, late.open], [[], ["signature"]]);
  const unsettled = await verdict(receipt, { ...evidence, proof: undefined }, [[retired, [committedAt]]]);
  assert.deepEqual([unsettled.wrong, unsettled.open], [[], ["signature", "batch", "earnings"]]);
});

test("request and answer are those of the receipt, or not, or unknown without the salt", async () => {
  const { receipt, evidence } = documents();
  const wrongRequest = { ...CONTENT, request: textBytes("{} ") };
  const wrongAnswer = { ...CONTENT, answers: ["Paris"] };
  for (const [content, text] of [
    [wrongRequest, /not the request/],
    [wrongAnswer, /not the answer/],
  ] as const) {
    const found = await verdict(receipt, evidence, [], { content });
    assert.deepEqual(found.wrong, ["content"]);
    assert.match(found.texts.content!, text);
  }
  const others = await verdict({ ...receipt, salt: null }, evidence, [], { content: CONTENT });
  assert.deepEqual(others.open, ["content"]);
});
