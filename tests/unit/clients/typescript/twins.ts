/**
 * Verifies the receipts of standard input, which Python has signed, and prints the result of each check as
 * JSON.
 */

import { readFileSync } from "node:fs";

import type { Hex } from "../../../../clients/typescript/src/encoding.ts";
import { MalformedDocument, verifyReceipt } from "../../../../clients/typescript/src/index.ts";
import { type Document, MARKET, nodeOf, view } from "./support.ts";

interface Input {
  readonly settlement: Hex;
  readonly operator: Hex;
  readonly receiptKey: Hex;
  readonly batchHash: Hex;
  readonly terms: { readonly id: number; readonly treasury: Hex; readonly feePpm: number };
  readonly versions: readonly Document[];
  readonly snapshots: readonly Document[];
  readonly cases: readonly { readonly receipt: Document; readonly proof: Document }[];
}

const input: Input = JSON.parse(readFileSync(0, "utf8"));
const { settlement, operator, receiptKey, terms, versions, snapshots } = input;
const market = { ...MARKET, addresses: { ...MARKET.addresses, Settlement: settlement } };

const views: [string, (bigint | Hex)[]][] = [
  [view("OperatorRegistry", "operatorOfKey(address)", receiptKey), [operator]],
  [view("OperatorRegistry", "retiredAt(address)", receiptKey), [0n]],
  [view("Settlement", "batchHashAt(address,uint64)", operator, 1n), [input.batchHash]],
  [view("Settlement", "stateOf(address)", operator), [1n, 0n, 0n, 0n, 0n]],
  [
    view("Parameters", "setAt(uint32)", BigInt(terms.id)),
    [terms.treasury, BigInt(terms.feePpm), ...Array(6).fill(0n)],
  ],
  ...versions.map(({ id }): [string, bigint[]] => [
    view("AdapterRegistry", "versionOf(bytes32)", id),
    [1n, 0n, 0n],
  ]),
  ...snapshots.flatMap(({ datanetId, contributions }) =>
    contributions.map(({ index, contributor, contentHash }: Document): [string, (bigint | Hex)[]] => {
      const call = view("DatasetRegistry", "contributionOf(uint64,bytes32)", BigInt(datanetId), contentHash);
      return [call, [contributor, BigInt(index), 1n]];
    }),
  ),
];
const known = new Map(
  views.map(([key, found]) => [key.replace(MARKET.addresses.Settlement, settlement), found]),
);
const options = { market, versions, snapshots, rpc: "http://node.invalid", fetch: nodeOf({ views: known }) };

const results = [];
for (const { receipt, proof } of input.cases) {
  try {
    const { checks } = await verifyReceipt(receipt, { ...options, proof });
    results.push(Object.fromEntries(checks.map(({ name, isRight }) => [name, isRight])));
  } catch (error) {
    if (!(error instanceof MalformedDocument)) throw error;
    results.push({ malformed: error.param.split(/[.[]/)[0] });
  }
}
console.log(JSON.stringify(results));
