/** Nodes of another chain, and nodes that answer with something else. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { NodeFailed, verifyReceipt, WrongChain } from "../../../../clients/typescript/src/index.ts";
import { documents, MARKET, nodeOf } from "./support.ts";

const RPC = "http://node.invalid";
const { receipt, evidence } = documents();

function verified(fetch: typeof globalThis.fetch, market: object = MARKET) {
  return verifyReceipt(receipt, { market, ...evidence, rpc: RPC, fetch });
}

/** A node whose answer to `eth_call` is this result. */
function answering(result: unknown): typeof fetch {
  const honest = nodeOf();
  return async (url, init) => {
    const isCall = JSON.parse(String(init?.body)).method === "eth_call";
    return isCall ? Response.json({ jsonrpc: "2.0", id: 1, result }) : honest(url, init);
  };
}

test("a node of another chain is refused, also if the chain has the same id", async () => {
  await assert.rejects(verified(nodeOf({ chainId: 1 })), (error) => {
    assert.ok(error instanceof WrongChain);
    assert.match(error.message, /is of chain 1, the market of chain 31337/);
    return true;
  });
  await assert.rejects(verified(nodeOf({ blockHash: `0x${"00".repeat(32)}` })), WrongChain);
  const young: typeof fetch = async (url, init) => {
    const isBlock = String(init?.body).includes("eth_getBlockByNumber");
    return isBlock ? Response.json({ result: null }) : nodeOf()(url, init);
  };
  await assert.rejects(verified(young), WrongChain);
});

test("an error does not repeat the secret in a node's URL", async () => {
  const rpc = "https://user:secret@node.invalid/key";
  const options = { market: MARKET, ...evidence, rpc, fetch };
  await assert.rejects(verifyReceipt(receipt, options), (error) => {
    assert.ok(error instanceof NodeFailed);
    assert.match(error.message, /the node node.invalid gave no JSON answer/);
    assert.doesNotMatch(error.message, /secret|key/);
    return true;
  });
});

const FAILURES: Record<string, [reason: RegExp, node: typeof fetch]> = {
  "does not answer": [
    /gave no JSON answer.*refused/,
    () => Promise.reject(new TypeError("connection refused")),
  ],
  "answers with a page": [/gave no JSON answer/, async () => new Response("<html>", { status: 502 })],
  "answers with an error": [
    /refused eth_chainId: rate limit/,
    async () => {
      return Response.json({ error: { code: -32005, message: "rate limit" } }, { status: 429 });
    },
  ],
  "answers with another object": [/HTTP 200 without a result/, async () => Response.json({})],
  "answers with null": [/HTTP 200 without a result/, async () => Response.json(null)],
  "answers with a chain id that is none": [
    /eth_chainId with 31337, not a quantity/,
    async () => {
      return Response.json({ result: 31337 });
    },
  ],
  "has no contract at an address": [/no contract \w+ at 0x/, answering("0x")],
  "answers with too few bytes": [/not 1 words/, answering("0x00")],
  "answers with too many bytes": [/not 1 words/, answering(`0x${"00".repeat(64)}`)],
  "answers with a number": [/not 1 words/, answering(0)],
  "answers with null to a call": [/not 1 words/, answering(null)],
};

for (const [what, [reason, node]] of Object.entries(FAILURES)) {
  test(`a node that ${what} is an error that says so`, async () => {
    await assert.rejects(verified(node), (error) => {
      assert.ok(error instanceof NodeFailed, String(error));
      assert.match(error.message, reason);
      return true;
    });
  });
}

test("an error does not repeat the path of the node's URL, which may be a secret", async () => {
  const rpc = "https://node.invalid/v3/secret";
  const nodes = [
    nodeOf({ chainId: 1 }),
    nodeOf({ blockHash: "0x" }),
    ...Object.values(FAILURES).map((f) => f[1]),
  ];
  for (const fetch of nodes) {
    await assert.rejects(verifyReceipt(receipt, { market: MARKET, ...evidence, rpc, fetch }), (error) => {
      assert.doesNotMatch(String(error), /secret/);
      return true;
    });
  }
});

test("a malformed URL is an error that says so", async () => {
  const verified = verifyReceipt(receipt, { market: MARKET, rpc: "node.invalid/secret" });
  await assert.rejects(verified, /^NodeFailed: the node's URL is malformed: give one such as https:..host.$/);
});

test("an answer in upper-case hex is the same answer", async () => {
  const shouting: typeof fetch = async (url, init) => {
    const answer = await (await nodeOf()(url, init)).json();
    const isCall = String(init?.body).includes("eth_call");
    return Response.json(isCall ? { result: `0x${answer.result.slice(2).toUpperCase()}` } : answer);
  };
  assert.equal((await verified(shouting)).isRight, true);
});
