/** Gets a receipt's evidence from the market's API, which is not trusted for it. */

import { readReceipt, readVersions } from "./documents.ts";
import type { Hex } from "./encoding.ts";
import { ApiFailed } from "./errors.ts";
import type { paths } from "./openapi.ts";
import type { Evidence } from "./verify.ts";

const TIMEOUT_MS = 20_000;
/** How long, and how often, a proof is asked for while the market audits its batch. */
const PROOF_MS = 300_000;
const POLL_MS = 5_000;
const VERSION = "/v1/versions/{version}";
const MANIFEST = "/v1/snapshots/{snapshot}/manifest";
const PROOF = "/v1/receipts/{receipt_id}/proof";
type Path = keyof paths & (typeof VERSION | typeof MANIFEST | typeof PROOF);
type Answer<P extends Path> = paths[P]["get"]["responses"][200]["content"]["application/json"];

export interface ApiOptions {
  /** A session token or an API key with the scope `account`: proofs are for callers with an account. */
  readonly token: string;
  /** Replaces the global `fetch`. */
  readonly fetch?: typeof fetch | undefined;
}

/**
 * The documents that `verifyReceipt` needs besides the receipt: its proof, unless no batch includes it yet,
 * the records of its versions and the manifests of their snapshots. Waits up to five minutes for a proof while
 * the market audits its batch.
 *
 * `api`: base URL of the market. Errors: ApiFailed, with the code `unavailable` if there is no proof then;
 * MalformedDocument for a receipt or version of another form.
 */
export async function fetchEvidence(api: string, receipt: unknown, options: ApiOptions): Promise<Evidence> {
  const { id, slices } = readReceipt(receipt);
  const get = <P extends Path>(path: P, thing: Hex) => request(api, path, thing, options);
  const ids = [...new Set(slices.map((slice) => slice.versionId))];
  const versions = await Promise.all(ids.map((version) => get(VERSION, version)));
  const needed = new Set([...readVersions(versions).values()].flatMap((record) => record.snapshots));
  const snapshots = await Promise.all([...needed].map((snapshot) => get(MANIFEST, snapshot)));
  const until = Date.now() + PROOF_MS;
  for (;;) {
    try {
      return { proof: await get(PROOF, id), versions, snapshots };
    } catch (error) {
      const code = error instanceof ApiFailed ? error.code : undefined;
      if (code === "not_committed") return { versions, snapshots };
      if (code !== "unavailable" || Date.now() > until) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function request<P extends Path>(
  api: string,
  path: P,
  id: Hex,
  options: ApiOptions,
): Promise<Answer<P>> {
  const { token, fetch: fetcher = fetch } = options;
  const url = `${api.replace(/\/$/, "")}${path.replace(/\{\w+\}/, id)}`;
  let response: Response;
  let answer: unknown;
  try {
    const headers = { authorization: `Bearer ${token}` };
    response = await fetcher(url, { headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
    answer = await response.json();
  } catch (error) {
    throw new ApiFailed(`${url} gave no JSON answer: ${String(error)}`, url);
  }
  if (response.ok) return answer as Answer<P>;
  const { code, message } = (answer as { error?: { code?: string; message?: string } } | null)?.error ?? {};
  throw new ApiFailed(`${url} is HTTP ${response.status}: ${message ?? "no reason given"}`, url, code);
}
