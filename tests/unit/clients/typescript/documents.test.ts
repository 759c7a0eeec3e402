/** Documents of another kind or version are refused by name. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { MalformedDocument, verifyReceipt } from "../../../../clients/typescript/src/index.ts";
import { type Document, documents, MANIFEST, MARKET, VERSIONS } from "./support.ts";

type Change = (all: { receipt: any; evidence: any; market: any }) => void;

/** Each with the field that the error names. */
const MALFORMED: Record<string, Change> = {
  receipt: (all) => void (all.receipt = []),
  "receipt.id": (all) => delete all.receipt.id,
  "receipt.operator": (all) => void (all.receipt.operator = all.receipt.operator.toUpperCase()),
  "receipt.receipt": (all) => void (all.receipt.receipt = null),
  "receipt.receipt.charge": (all) => void (all.receipt.receipt.charge = 20266700), // the API before 0.1
  "receipt.receipt.cumulative": (all) => void (all.receipt.receipt.cumulative = (1n << 128n).toString()),
  "receipt.receipt.prompt_tokens": (all) => void (all.receipt.receipt.prompt_tokens = 2 ** 32),
  "receipt.receipt.completion_tokens": (all) => void (all.receipt.receipt.completion_tokens = 1.5),
  "receipt.receipt.served_at": (all) => void (all.receipt.receipt.served_at = 2 ** 53),
  "receipt.method": (all) => void (all.receipt.method = "two words"),
  "receipt.slices": (all) => void (all.receipt.slices = []),
  "receipt.slices[1].weight_ppm": (all) => void (all.receipt.slices[1].weight_ppm = "1"),
  "receipt.slices[0].packed": (all) => void (all.receipt.slices[0].packed = "0x00"),
  "receipt.signature": (all) => void (all.receipt.signature += "00"),
  "receipt.salt": (all) => void (all.receipt.salt = "0x00"),
  market: (all) => void (all.market = "31337"),
  "market.chain_id": (all) => void (all.market.chain_id = "31337"),
  "market.addresses.Settlement": (all) => void (all.market.addresses.Settlement = "0x00"),
  "market.addresses.Parameters": (all) => delete all.market.addresses.Parameters,
  "proof.header": (all) => delete all.evidence.proof.header,
  "proof.header.number": (all) => void (all.evidence.proof.header.number = 1),
  "proof.spans": (all) => delete all.evidence.proof.spans, // the API before 0.1
  "proof.receipt.path": (all) => void (all.evidence.proof.receipt.path = `0x${"00".repeat(48 * 33)}`),
  "proof.entries[0].part": (all) => void (all.evidence.proof.entries[0].part = 2 ** 16),
  "versions[0].record": (all) => void (all.evidence.versions = [{ id: VERSIONS[0]!.id }]),
  "versions[0].record.snapshots": (all) => {
    all.evidence.versions[0].record.snapshots = Array(5).fill(MANIFEST.snapshotId);
  },
  "snapshots[0].format": (all) => void (all.evidence.snapshots[0].format = "loraledger-snapshot-2"),
  "snapshots[0].count": (all) => void (all.evidence.snapshots[0].count = 2 ** 24),
  "snapshots[0].contributions": (all) => void (all.evidence.snapshots[0].count = 2),
};

for (const [param, change] of Object.entries(MALFORMED)) {
  test(`a malformed ${param} is named`, async () => {
    const all = { ...documents(), market: structuredClone(MARKET) as Document };
    change(all);
    await assert.rejects(verifyReceipt(all.receipt, { market: all.market, ...all.evidence }), (error) => {
      assert.ok(error instanceof MalformedDocument, String(error));
      assert.equal(error.param, param);
      assert.match(error.message, new RegExp(`^${param.replace(/[[\]]/g, "\\$&")} (is|has) `));
      return true;
    });
  });
}

test("an error repeats no more than the beginning of a value", async () => {
  const { receipt } = documents();
  const long = verifyReceipt({ ...receipt, method: "x".repeat(10_000) }, { market: MARKET });
  await assert.rejects(long, (error: Error) => error.message.length < 200);
});

test("null stands for a salt that is not shown, and so does a missing one", async () => {
  const { receipt } = documents();
  const { salt, ...shown } = receipt;
  for (const file of [shown, { ...shown, salt: null }]) {
    assert.equal((await verifyReceipt(file, { market: MARKET })).isRight, null);
  }
});
