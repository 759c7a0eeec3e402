/** Requests to an Ethereum node: by JSON-RPC over HTTP, or through a wallet. */

import { NodeFailed } from "./errors.ts";

const TIMEOUT_MS = 20_000;

/** A wallet, or anything else that takes requests as EIP-1193 has them. */
export interface Provider {
  request(call: { readonly method: string; readonly params?: readonly unknown[] }): Promise<unknown>;
}

/** `name` stands in errors. Errors of requests: NodeFailed. */
export interface Node {
  readonly name: string;
  request(method: string, params: readonly unknown[]): Promise<unknown>;
}

/** Errors: NodeFailed for a malformed URL. */
export function nodeOf(rpc: string | Provider, fetcher: typeof fetch): Node {
  if (typeof rpc !== "string") return new WalletNode(rpc);
  if (!URL.canParse(rpc)) {
    throw new NodeFailed("the node's URL is malformed: give one such as https://host/", "rpc");
  }
  return new HttpNode(rpc, fetcher);
}

class HttpNode implements Node {
  readonly name: string;
  readonly #url: string;
  /** In errors: the rest of a node's URL often is a secret. */
  readonly #host: string;
  readonly #fetch: typeof fetch;

  constructor(url: string, fetcher: typeof fetch) {
    this.#url = url;
    this.#host = new URL(url).host;
    this.#fetch = fetcher;
    this.name = `the node ${this.#host}`;
  }

  async request(method: string, params: readonly unknown[]): Promise<unknown> {
    const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
    const headers = { "content-type": "application/json" };
    let response: Response;
    let answer: unknown;
    const fetcher = this.#fetch; // browsers refuse `fetch` as a method of another object
    try {
      const signal = AbortSignal.timeout(TIMEOUT_MS);
      response = await fetcher(this.#url, { method: "POST", headers, body, signal });
      answer = await response.json();
    } catch (error) {
      const reason = String(error).replaceAll(this.#url, this.#host);
      throw new NodeFailed(`${this.name} gave no JSON answer to ${method}: ${reason}`, "rpc");
    }
    if (typeof answer === "object" && answer !== null && "result" in answer) return answer.result;
    const message = (answer as { error?: { message?: unknown } } | null)?.error?.message;
    const reason = typeof message === "string" ? message : `HTTP ${response.status} without a result`;
    throw new NodeFailed(`${this.name} refused ${method}: ${reason}`, method);
  }
}

class WalletNode implements Node {
  readonly name = "the wallet's node";
  readonly #provider: Provider;

  constructor(provider: Provider) {
    this.#provider = provider;
  }

  async request(method: string, params: readonly unknown[]): Promise<unknown> {
    try {
      return await this.#provider.request({ method, params });
    } catch (error) {
      const message = (error as { message?: unknown } | null)?.message;
      const reason = typeof message === "string" ? message : String(error);
      throw new NodeFailed(`${this.name} refused ${method}: ${reason}`, method);
    }
  }
}
