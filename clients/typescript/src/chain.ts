/** Reads the market's contracts by plain JSON-RPC (`eth_call`), at a node of the reader's choice. */

import type { Contract, Market } from "./documents.ts";
import { type Hex, keccak, textBytes, toHex, words } from "./encoding.ts";
import { NodeFailed, WrongChain } from "./errors.ts";

const TIMEOUT_MS = 20_000;

/** What the terms of a batch say about the split of its charges. */
export interface ParameterSet {
  readonly treasury: Hex;
  readonly feePpm: bigint;
}

/**
 * The contracts of one market, at the node's latest block. Errors of all methods: NodeFailed if the node does
 * not answer, refuses a call, or answers with something else than the contract's value.
 */
export class Chain {
  readonly #url: string;
  /** In errors: the rest of a node's URL often is a secret. */
  readonly #host: string;
  readonly #market: Market;
  readonly #fetch: typeof fetch;

  private constructor(url: string, market: Market, fetcher: typeof fetch) {
    this.#url = url;
    this.#host = new URL(url).host;
    this.#market = market;
    this.#fetch = fetcher;
  }

  /**
   * Connects to a node of the market's chain. Errors: WrongChain, also for a chain with the same id;
   * NodeFailed.
   */
  static async connect(url: string, market: Market, fetcher: typeof fetch = fetch): Promise<Chain> {
    if (!URL.canParse(url))
      throw new NodeFailed("the node's URL is malformed: give one such as https://host/", "rpc");
    const chain = new Chain(url, market, fetcher);
    const id = chain.#quantity(await chain.#request("eth_chainId", []), "eth_chainId");
    if (id !== market.chainId) {
      const text = `the node ${chain.#host} is of chain ${id}, the market of chain ${market.chainId}`;
      throw new WrongChain(text, "rpc");
    }
    const asked = [`0x${market.blockNumber.toString(16)}`, false];
    const block = await chain.#request("eth_getBlockByNumber", asked);
    const hash = (block as { hash?: unknown } | null)?.hash;
    if (hash !== market.blockHash) {
      const text = `the node ${chain.#host} is of another chain with the id ${id}: its block`;
      const blocks = `${market.blockNumber} is ${JSON.stringify(hash)}, not the market's ${market.blockHash}`;
      throw new WrongChain(`${text} ${blocks}`, "rpc");
    }
    return chain;
  }

  /** The operator to which a receipt key is bound, retired or not; the zero account for none. */
  async operatorOfKey(key: Hex): Promise<Hex> {
    const [operator] = await this.#call("OperatorRegistry", "operatorOfKey(address)", [key], 1);
    return accountOf(operator);
  }

  /** When a receipt key was retired, in unix seconds; zero if it is not. */
  async retiredAt(key: Hex): Promise<bigint> {
    const [time] = await this.#call("OperatorRegistry", "retiredAt(address)", [key], 1);
    return time;
  }

  /** Hash of an operator's batch; zero if the number is not committed, or was voided. */
  async batchHashAt(operator: Hex, number: bigint): Promise<Hex> {
    const asked = [operator, number] as const;
    const [hash] = await this.#call("Settlement", "batchHashAt(address,uint64)", asked, 1);
    return toHex(words(hash));
  }

  /** Number of the operator's latest final batch. */
  async finalisedOf(operator: Hex): Promise<bigint> {
    const [, , , finalised] = await this.#call("Settlement", "stateOf(address)", [operator], 5);
    return finalised;
  }

  /** When a version was registered, in unix seconds; zero if it is not. */
  async registeredAt(version: Hex): Promise<bigint> {
    const [time] = await this.#call("AdapterRegistry", "versionOf(bytes32)", [version], 3);
    return time;
  }

  async parameterSet(id: bigint): Promise<ParameterSet> {
    const [treasury, feePpm] = await this.#call("Parameters", "setAt(uint32)", [id], 8);
    return { treasury: accountOf(treasury), feePpm };
  }

  /** The contributor of an admitted contribution with this index; null if the registry has no such one. */
  async contributorOf(datanetId: bigint, contentHash: Hex, index: bigint): Promise<Hex | null> {
    const asked = [datanetId, contentHash] as const;
    const found = await this.#call("DatasetRegistry", "contributionOf(uint64,bytes32)", asked, 3);
    const [contributor, recorded, isAdmitted] = found;
    return isAdmitted === 1n && recorded === index ? accountOf(contributor) : null;
  }

  /** The words that a view of a contract returns. */
  async #call<N extends keyof Words>(
    contract: Contract,
    signature: string,
    values: readonly (bigint | Hex)[],
    count: N,
  ): Promise<Words[N]> {
    const to = this.#market.addresses[contract];
    const data = `${keccak(textBytes(signature)).slice(0, 10)}${toHex(words(...values)).slice(2)}`;
    const result = await this.#request("eth_call", [{ to, data }, "latest"]);
    if (result === "0x") throw new NodeFailed(`no contract ${contract} at ${to} on this chain`, contract);
    if (typeof result !== "string" || !new RegExp(`^0x[0-9a-fA-F]{${64 * count}}$`).test(result)) {
      throw this.#unexpected(`${contract}.${signature}`, result, `${count} words`);
    }
    return Array.from({ length: count }, (_, at) => {
      return BigInt(`0x${result.slice(2 + 64 * at, 66 + 64 * at)}`);
    }) as Words[N];
  }

  #quantity(value: unknown, method: string): bigint {
    if (typeof value !== "string" || !/^0x[0-9a-fA-F]{1,64}$/.test(value)) {
      throw this.#unexpected(method, value, "a quantity");
    }
    return BigInt(value);
  }

  /** The result of a JSON-RPC request. */
  async #request(method: string, params: readonly unknown[]): Promise<unknown> {
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
      throw new NodeFailed(`the node ${this.#host} gave no JSON answer to ${method}: ${reason}`, "rpc");
    }
    if (typeof answer === "object" && answer !== null && "result" in answer) return answer.result;
    const message = (answer as { error?: { message?: unknown } } | null)?.error?.message;
    const reason = typeof message === "string" ? message : `HTTP ${response.status} without a result`;
    throw new NodeFailed(`the node ${this.#host} refused ${method}: ${reason}`, method);
  }

  #unexpected(asked: string, found: unknown, expected: string): NodeFailed {
    const text = String(JSON.stringify(found)).slice(0, 80);
    return new NodeFailed(`the node ${this.#host} answered ${asked} with ${text}, not ${expected}`, asked);
  }
}

/** Tuples by their length. */
interface Words {
  1: [bigint];
  3: [bigint, bigint, bigint];
  5: [bigint, bigint, bigint, bigint, bigint];
  8: [bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint];
}

function accountOf(value: bigint): Hex {
  return toHex(words(value).subarray(12));
}
