/**
 * Carries out what a page proposes: a form with `data-transaction` gets a proposal in words from its address,
 * which is shown before the wallet opens (backend/web/proposal.py). A step that fails can be tried again in the
 * dialog: it keeps what is signed and sent.
 */

import { api, MarketAway, postForm, SESSION_API } from "./market.ts";
import { follow, followAgain, listFailure, pathOf } from "./pending.ts";
import { newestBlock } from "./replacement.ts";
import {
  buttonOf,
  connect,
  findWallets,
  hasAccount,
  reasonOf,
  sendTransaction,
  signTypedData,
  switchChain,
  type Transaction,
  type Wallet,
} from "./wallets.ts";

interface Steps {
  readonly transactions?: readonly Transaction[];
  readonly typed_data?: unknown;
  readonly relay?: { readonly path: string; readonly body: Readonly<Record<string, unknown>> };
}

const KEPT = "What is signed is kept in this window: try again here. Sent twice, it takes effect once.";

class ProposalDialog {
  readonly #dialog: HTMLDialogElement;
  readonly #wallets: Wallet[] = [];
  /** Number of the proposal that is shown; what began for an earlier one changes nothing in the dialog. */
  #latest = 0;

  constructor(dialog: HTMLDialogElement) {
    this.#dialog = dialog;
    findWallets((wallet) => this.#wallets.push(wallet));
    dialog.addEventListener("close", () => {
      this.#latest++;
      this.#show("", "");
    });
  }

  /** Shows what the form proposes. */
  open(form: HTMLFormElement, title: string): void {
    const proposal = this.#part("[data-proposal]");
    const heading = document.createElement("h2");
    heading.id = "proposal-title";
    heading.textContent = title;
    proposal.replaceChildren(heading);
    this.#part("[data-own-wallets]").hidden = true;
    this.#dialog.showModal();
    const number = ++this.#latest;
    const isShown = () => number === this.#latest;
    void this.#run(isShown, "The market prepares it…", async () => {
      const html = await postForm(form);
      if (!isShown()) return;
      proposal.innerHTML = html; // rendered by this market, like the page; the policy runs no script in it
      for (const button of proposal.querySelectorAll<HTMLButtonElement>("[data-way]"))
        this.#arm(button, isShown);
      proposal.querySelector<HTMLElement>("[data-way]")?.focus();
    });
  }

  #arm(button: HTMLButtonElement, isShown: () => boolean): void {
    const { way, action } = button.dataset;
    const say = (words: string) => {
      if (isShown()) this.#say(words);
    };
    const carry = new Carrying(JSON.parse(way!) as Steps, action!, say, isShown);
    const step = async () => {
      await carry.out(() => this.#wallet());
      if (isShown()) this.#dialog.close();
    };
    button.addEventListener("click", () => {
      void this.#run(isShown, "", step, action);
    });
  }

  /** The wallet with the account that is signed in. */
  async #wallet(): Promise<Wallet> {
    const account = document.body.dataset["account"]!;
    const wallet = await this.#find(account);
    const connected = await connect(wallet);
    if (connected !== account && !(await hasAccount(wallet, account))) {
      throw new Error(
        `The wallet offers ${connected}, and you are signed in as ${account}. Choose that account in the wallet, or sign out and in again.`,
      );
    }
    this.#say("The wallet switches to the market's chain…");
    await switchChain(wallet, Number(document.body.dataset["chainId"]));
    return wallet;
  }

  async #find(account: string): Promise<Wallet> {
    for (const wallet of this.#wallets) if (await hasAccount(wallet, account)) return wallet;
    const [first, ...others] = this.#wallets;
    if (first === undefined) {
      throw new Error(
        "No wallet announces itself in this browser. Open the browser, or unlock the extension, that has this account.",
      );
    }
    return others.length === 0 ? first : this.#choose();
  }

  #choose(): Promise<Wallet> {
    this.#say("Choose the wallet that has this account.");
    const list = this.#part("[data-own-wallets]");
    list.hidden = false;
    return new Promise((resolve) => {
      const chosen = (wallet: Wallet) => {
        list.hidden = true;
        resolve(wallet);
      };
      list.replaceChildren(...this.#wallets.map((wallet) => buttonOf(wallet, () => chosen(wallet))));
    });
  }

  /**
   * Runs a step with all buttons but *Close* disabled. A fault is shown, and the step can be repeated. After *Close*,
   * while a wallet is still open, the fault of an `action` is listed on the page.
   */
  async #run(
    isShown: () => boolean,
    words: string,
    step: () => Promise<void>,
    action?: string,
  ): Promise<void> {
    this.#show(words, "");
    this.#dialog.setAttribute("aria-busy", "true");
    for (const button of this.#ways()) button.disabled = true;
    let fault = "";
    try {
      await step();
    } catch (error) {
      fault = reasonOf(error);
    }
    if (isShown()) this.#show("", fault);
    else if (fault !== "" && action !== undefined) listFailure(action, fault);
  }

  /** Ends a step: its buttons can be used again. */
  #show(words: string, fault: string): void {
    this.#say(words);
    this.#part("[data-fault]").textContent = fault;
    this.#dialog.removeAttribute("aria-busy");
    for (const button of this.#ways()) button.disabled = false;
  }

  #ways(): NodeListOf<HTMLButtonElement> {
    return this.#dialog.querySelectorAll<HTMLButtonElement>("[data-way]");
  }

  #say(words: string): void {
    this.#part("[data-status]").textContent = words;
  }

  #part(selector: string): HTMLElement {
    return this.#dialog.querySelector<HTMLElement>(selector)!;
  }
}

/** One way of a proposal. `out` continues where an earlier try failed. */
class Carrying {
  readonly #steps: Steps;
  readonly #action: string;
  readonly #say: (words: string) => void;
  readonly #isShown: () => boolean;
  #numSent = 0;
  #signature: string | undefined;

  constructor(steps: Steps, action: string, say: (words: string) => void, isShown: () => boolean) {
    this.#steps = steps;
    this.#action = action;
    this.#say = say;
    this.#isShown = isShown;
  }

  async out(find: () => Promise<Wallet>): Promise<void> {
    const { transactions = [], typed_data, relay } = this.#steps;
    if (transactions.length > 0) await this.#send(await find(), transactions);
    if (typed_data !== undefined && this.#signature === undefined) {
      const wallet = await find();
      this.#say("Compare with what the wallet shows, and sign there.");
      this.#signature = await whileOpen(signTypedData(wallet, document.body.dataset["account"]!, typed_data));
    }
    if (relay !== undefined) await this.#relay(relay);
  }

  async #send(wallet: Wallet, transactions: readonly Transaction[]): Promise<void> {
    for (const [index, transaction] of transactions.entries()) {
      if (index < this.#numSent) continue;
      const part = transactions.length > 1 ? ` (${index + 1} of ${transactions.length})` : "";
      if (!this.#isShown()) throw new Error(`You closed it before this part${part}. Start it again.`);
      this.#say(`Compare with what the wallet shows, and confirm it there${part}.`);
      const account = document.body.dataset["account"]!;
      const since = await newestBlock(wallet);
      const hash = await whileOpen(
        sendTransaction(wallet, account, Number(document.body.dataset["chainId"]), transaction),
      );
      const { to, data } = transaction;
      const mined = follow({
        action: `${this.#action}${part}`,
        path: pathOf(hash),
        sent: { hash, account, to, data, nonce: null, since },
      });
      if (index + 1 < transactions.length) {
        this.#say(`Sent${part}. The next one follows once it is in a block.`);
        await mined;
      } else mined.catch(() => undefined); // its row says why
      this.#numSent = index + 1;
    }
  }

  async #relay({ path, body }: NonNullable<Steps["relay"]>): Promise<void> {
    this.#say("The market takes it…");
    const signed = this.#signature === undefined ? body : { ...body, signature: this.#signature };
    let answer: { transaction_id?: number };
    try {
      answer = (await api("POST", path, signed)) as typeof answer;
    } catch (error) {
      throw error instanceof MarketAway ? new Error(`${error.message} ${KEPT}`) : error;
    }
    if (answer.transaction_id === undefined) {
      document.body.dispatchEvent(new Event("transaction"));
      return;
    }
    const id = answer.transaction_id;
    follow({ action: this.#action, path: `${SESSION_API}/transactions/${id}` }).catch(() => undefined);
  }
}

let numOpen = 0;

/** While the wallet is open, leaving the page asks first: what the wallet answers then is lost to the page. */
async function whileOpen<T>(answer: Promise<T>): Promise<T> {
  numOpen++;
  try {
    return await answer;
  } finally {
    numOpen--;
  }
}

function start(): void {
  window.addEventListener("beforeunload", (event) => {
    if (numOpen > 0) event.preventDefault();
  });
  const dialog = document.querySelector<HTMLDialogElement>("#transaction");
  if (dialog === null || document.body.dataset["account"] === undefined) return;
  const shown = new ProposalDialog(dialog);
  document.addEventListener("submit", (event) => {
    const form = event.target as HTMLFormElement;
    if (form.dataset["transaction"] === undefined) return;
    event.preventDefault();
    const { submitter } = event;
    shown.open(form, submitter?.ariaLabel ?? submitter?.textContent ?? "");
  });
  document.addEventListener("htmx:after:swap", enable);
  enable();
  followAgain();
}

/** Buttons are rendered disabled: without this script, their forms lead nowhere. */
function enable(): void {
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-transaction] button"))
    button.disabled = false;
}

start();
