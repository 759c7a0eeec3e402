/** Evidence from an API. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiFailed, fetchEvidence, verifyReceipt } from "../../../../clients/typescript/src/index.ts";
import { documents, MANIFEST, MARKET, nodeOf, VERSIONS } from "./support.ts";

const API = "https://market.invalid";
const { receipt, evidence } = documents();
const PROOF = `/v1/receipts/${receipt.id}/proof`;

/** An API that serves the example, or these documents or responses instead. */
function serving(asked: string[], instead: Record<string, Response> = {}): typeof fetch {
  const served: Record<string, unknown> = {
    [PROOF]: evidence.proof,
    [`/v1/snapshots/${MANIFEST.snapshotId}/manifest`]: MANIFEST,
    ...Object.fromEntries(VERSIONS.map((version) => [`/v1/versions/${version.id}`, version])),
  };
  return async (url, init) => {
    const path = String(url).slice(API.length);
    asked.push(`${path} ${new Headers(init?.headers).get("authorization")}`);
    return instead[path] ?? Response.json(served[path]);
  };
}

test("the evidence of a receipt is right with nothing else", async () => {
  const asked: string[] = [];
  const found = await fetchEvidence(`${API}/`, receipt, { token: "lls_1", fetch: serving(asked) });
  assert.equal(asked.length, 4);
  assert.ok(asked.every((request) => request.endsWith(" Bearer lls_1")));
  const options = { market: MARKET, ...found, rpc: "http://node.invalid", fetch: nodeOf() };
  assert.equal((await verifyReceipt(receipt, options)).isRight, true);
});

test("a receipt that no batch includes yet has no proof", async () => {
  const error = { error: { code: "not_committed", message: "in no committed batch yet" } };
  const fetch = serving([], { [PROOF]: Response.json(error, { status: 409 }) });
  const found = await fetchEvidence(API, receipt, { token: "", fetch });
  assert.deepEqual(found, { versions: VERSIONS, snapshots: [MANIFEST] });
});

for (const [name, numRefused] of [
  ["a proof is asked for again while its batch is audited", 2],
  ["a proof of a batch that is not audited in minutes is an error that says so", Infinity],
] as const)
  test(name, async ({ mock }) => {
    mock.timers.enable({ apis: ["Date", "setTimeout"] });
    const clock = setInterval(() => mock.timers.tick(1_000), 0);
    const error = { error: { code: "unavailable", message: "still audited; try again" } };
    const served = serving([]);
    let num = 0;
    const fetch: typeof globalThis.fetch = async (url, init) =>
      String(url).endsWith(PROOF) && ++num <= numRefused
        ? Response.json(error, { status: 503 })
        : served(url, init);
    const found = fetchEvidence(API, receipt, { token: "", fetch }).finally(() => clearInterval(clock));
    if (numRefused === Infinity)
      await assert.rejects(found, { code: "unavailable", message: /still audited/ });
    else assert.deepEqual((await found).proof, evidence.proof);
    assert.ok(num > 2);
  });

test("an API that refuses or fails is an error that says so", async () => {
  const error = { error: { code: "unauthenticated", message: "Send a token." } };
  for (const [response, code, reason] of [
    [Response.json(error, { status: 401 }), "unauthenticated", /HTTP 401: Send a token\./],
    [Response.json([], { status: 500 }), undefined, /HTTP 500: no reason given/],
    [new Response("<html>"), undefined, /gave no JSON answer/],
  ] as const) {
    const fetch = serving([], { [PROOF]: response });
    await assert.rejects(fetchEvidence(API, receipt, { token: "", fetch }), (caught) => {
      assert.ok(caught instanceof ApiFailed);
      assert.equal(caught.code, code);
      assert.match(caught.message, reason);
      return true;
    });
  }
});
