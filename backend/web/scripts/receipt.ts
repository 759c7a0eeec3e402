/**
 * Checks the receipt of the page in this browser. The market's documents are not trusted: hashes tie them to the
 * receipt, and the chain is read through the visitor's own wallet or node.
 */

import { type Check, type Provider, type Verdict, verifyReceipt } from "@loraledger/verify";

import { get } from "./market.ts";
import { findWallets, reasonOf, type Wallet } from "./wallets.ts";

interface Evidence {
  readonly receipt: unknown;
  readonly market: unknown;
  readonly proof?: unknown;
  readonly versions: readonly unknown[];
  readonly snapshots: readonly unknown[];
  /** Why there is no proof, although the receipt is in a batch. */
  readonly no_proof?: string;
}

const STATES = new Map<boolean | null, string>([
  [true, "right"],
  [false, "wrong"],
  [null, "open"],
]);
const WORDS = { right: "right", wrong: "WRONG", open: "open", waiting: "not checked yet" } as const;

class ReceiptCheck {
  readonly #section: HTMLElement;
  #evidence: Promise<Evidence>;
  #rpc: string | Provider | undefined;
  #latest = 0;

  constructor(section: HTMLElement) {
    this.#section = section;
    this.#evidence = fetchEvidence();
  }

  /** Reads the chain through this wallet or node, and checks again. */
  async through(rpc: string | Provider): Promise<void> {
    this.#rpc = rpc;
    await this.run();
  }

  /** Checks with what is chosen now. A check that another one overtakes shows nothing. */
  async run(): Promise<void> {
    const number = ++this.#latest;
    const fault = this.#section.querySelector<HTMLElement>("[data-fault]")!;
    fault.textContent = "";
    delete this.#section.dataset["verdict"];
    let verdict: Verdict | null = null;
    let reason = "";
    try {
      if (number > 1) await this.#complete();
      verdict = await this.#verify();
      reason = (await this.#evidence).no_proof ?? "";
    } catch (error) {
      reason = reasonOf(error);
    }
    if (number !== this.#latest) return;
    fault.textContent = reason;
    if (verdict === null) this.#clear();
    for (const check of verdict?.checks ?? []) this.#show(check);
    this.#section.dataset["verdict"] = STATES.get(verdict?.isRight ?? null)!;
  }

  /** Gets the evidence again if it came without the proof, which the market may have by now. */
  async #complete(): Promise<void> {
    const known = this.#evidence;
    const isIncomplete = await known.then(
      (evidence) => evidence.no_proof !== undefined,
      () => true,
    );
    if (isIncomplete && this.#evidence === known) this.#evidence = fetchEvidence();
  }

  async #verify(): Promise<Verdict> {
    const { receipt, ...evidence } = await this.#evidence;
    const market = (await jsonOf(this.#input("market"))) ?? evidence.market;
    return verifyReceipt(receipt, { ...evidence, market, rpc: this.#rpc, content: await this.#content() });
  }

  async #content() {
    const [request] = this.#input("request").files ?? [];
    const answers = [...(this.#input("answer").files ?? [])];
    if (request === undefined || answers.length === 0) return undefined;
    return {
      request: new Uint8Array(await request.arrayBuffer()),
      answers: await Promise.all(answers.map((file) => file.text())),
    };
  }

  #input(name: string): HTMLInputElement {
    return this.#section.querySelector<HTMLInputElement>(`input[name=${name}]`)!;
  }

  #show({ name, isRight, message }: Check): void {
    const row = this.#section.querySelector<HTMLElement>(`[data-check=${name}]`)!;
    this.#mark(row, STATES.get(isRight) as keyof typeof WORDS, message);
  }

  /** Removes results of an earlier check, which was of another source. */
  #clear(): void {
    for (const row of this.#section.querySelectorAll<HTMLElement>("[data-check]"))
      this.#mark(row, "waiting", "\u00a0");
  }

  #mark(row: HTMLElement, state: keyof typeof WORDS, message: string): void {
    row.dataset["state"] = state;
    row.querySelector("[data-result]")!.textContent = WORDS[state];
    row.querySelector("[data-message]")!.textContent = message;
  }
}

function fetchEvidence(): Promise<Evidence> {
  const evidence = get(`${location.pathname}/evidence`) as Promise<Evidence>;
  evidence.catch(() => undefined); // shown by the check that needs it
  return evidence;
}

async function jsonOf(input: HTMLInputElement): Promise<unknown> {
  const [file] = input.files ?? [];
  return file === undefined ? undefined : (JSON.parse(await file.text()) as unknown);
}

function start(): void {
  const section = document.querySelector<HTMLElement>("#checks");
  if (section === null) return;
  const check = new ReceiptCheck(section);
  void check.run();
  section.querySelector("form")!.addEventListener("submit", (event) => {
    event.preventDefault();
    const node = section.querySelector<HTMLInputElement>("input[name=node]")!;
    void check.through(node.value.trim());
  });
  section.addEventListener("change", (event) => {
    if ((event.target as HTMLInputElement).type === "file") void check.run();
  });
  findWallets((wallet) => addWallet(section, wallet, check));
}

/** Reading through a wallet needs no account and no permission: it is asked for the chain alone. */
function addWallet(section: HTMLElement, { info, provider }: Wallet, check: ReceiptCheck): void {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = `Check through ${info.name}`;
  button.addEventListener("click", () => void check.through(provider));
  section.querySelector("[data-own-wallets]")!.append(button);
}

start();
