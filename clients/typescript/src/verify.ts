/** Verifies a receipt, without trust in the server of its documents. */

import { Chain } from "./chain.ts";
import { checkBatch, checkCharge, checkCharged, checkContent } from "./checks.ts";
import { checkHash, checkSignature, checkSlices, type Content } from "./checks.ts";
import { readChargeId, readMarket, readProof, readReceipt } from "./documents.ts";
import { readSnapshots, readVersions } from "./documents.ts";
import { checkEarnings } from "./earnings.ts";
import type { Hex } from "./encoding.ts";
import type { Check, Facts } from "./facts.ts";
import { structHash } from "./messages.ts";
import type { Provider } from "./node.ts";

/** Documents of the market's API about a receipt; `fetchEvidence` gets them. None is trusted. */
export interface Evidence {
  /** `GET /v1/receipts/{id}/proof`, once the receipt's batch is committed. */
  readonly proof?: unknown;
  /** `GET /v1/versions/{id}` of each slice. */
  readonly versions?: readonly unknown[];
  /** `GET /v1/snapshots/{id}/manifest` of each version's snapshots. */
  readonly snapshots?: readonly unknown[];
}

export interface Options extends Evidence {
  /** The market's deployment record, from a source that you trust: its contracts decide. */
  readonly market: unknown;
  /**
   * An Ethereum node of the market's chain: the URL of its JSON-RPC, or a wallet (EIP-1193) to ask through.
   * Without one, what only the chain knows stays open.
   */
  readonly rpc?: string | Provider | undefined;
  /** Request and answer, to verify that the receipt is for them. */
  readonly content?: Content | undefined;
  /** Id of the charge that came with the answer, to verify that the receipt is that charge's. */
  readonly charge?: Hex | null | undefined;
  /** Replaces the global `fetch`. */
  readonly fetch?: typeof fetch | undefined;
}

export interface Verdict {
  /** The receipt's id as computed from its fields. */
  readonly id: Hex;
  /** False if any check is; otherwise null if any check cannot be decided with what is at hand. */
  readonly isRight: boolean | null;
  readonly checks: readonly Check[];
}

/**
 * Verifies a receipt (`GET /v1/receipts/{id}`, or a file of `loraledger receipts show --out`).
 *
 * Errors: MalformedDocument for a document of another kind, or a malformed id; WrongChain and NodeFailed if there is an `rpc`.
 */
export async function verifyReceipt(receipt: unknown, options: Options): Promise<Verdict> {
  const file = readReceipt(receipt);
  const market = readMarket(options.market);
  const charge = readChargeId(options.charge);
  const facts: Facts = {
    file,
    id: structHash("Receipt", file.receipt),
    market,
    proof: options.proof === undefined ? null : readProof(options.proof),
    versions: readVersions(options.versions ?? []),
    snapshots: readSnapshots(options.snapshots ?? []),
    chain: options.rpc === undefined ? null : await Chain.connect(options.rpc, market, options.fetch),
  };
  const checks = await makeChecks(facts, charge);
  if (options.content !== undefined) checks.push(checkContent(file, options.content));
  const results = checks.map((check) => check.isRight);
  const isRight = results.includes(false) ? false : results.includes(null) ? null : true;
  return { id: facts.id, isRight, checks };
}

async function makeChecks(facts: Facts, got: Hex | null): Promise<Check[]> {
  const batch = await checkBatch(facts);
  const slices = checkSlices(facts.file);
  const signature = await checkSignature(facts, batch);
  const charge = await checkCharge(facts, slices);
  const earnings = await checkEarnings(facts, charge, batch);
  const charged = checkCharged(facts.file, got);
  const checks = [checkHash(facts), signature, slices, charge, batch, earnings];
  return charged === null ? checks : [...checks, charged];
}
