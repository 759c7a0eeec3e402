/** Reads the market's contracts by `eth_call`, at a node of the reader's choice. */

import type { Contract, Market } from "./documents.ts";
import { type Hex, keccak, textBytes, toHex, words } from "./encoding.ts";
import { NodeFailed, WrongChain } from "./errors.ts";
import { type Node, nodeOf, type Provider } from "./node.ts";

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
  readonly #node: Node;
  readonly #market: Market;

  private constructor(node: Node, market: Market) {
    this.#node = node;
    this.#market = market;
  }

  /**
   * Connects to a node of the market's chain, by its URL or through a wallet. Errors: WrongChain, also for a
   * chain with the same id; NodeFailed.
   */
  static async connect(
    rpc: string | Provider,
    market: Market,
    fetcher: typeof fetch = fetch,
  ): Promise<Chain> {
    const node = nodeOf(rpc, fetcher);
    const chain = new Chain(node, market);
    const id = chain.#quantity(await node.request("eth_chainId", []), "eth_chainId");
    if (id !== market.chainId) {
      throw new WrongChain(`${node.name} is of chain ${id}, the market of chain ${market.chainId}`, "rpc");
    }
    const asked = [`0x${market.blockNumber.toString(16)}`, false];
    const block = await node.request("eth_getBlockByNumber", asked);
    const hash = (block as { hash?: unknown } | null)?.hash;
    if (hash !== market.blockHash) {
      const text = `${node.name} is of another chain with the id ${id}: its block`;
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
    const result = await this.#node.request("eth_call", [{ to, data }, "latest"]);
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

  #unexpected(asked: string, found: unknown, expected: string): NodeFailed {
    const text = String(JSON.stringify(found)).slice(0, 80);
    return new NodeFailed(`${this.#node.name} answered ${asked} with ${text}, not ${expected}`, asked);
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
