/** The dialog that connects a wallet and signs in. It shows what is signed before the wallet opens. */

import { post } from "./market.ts";
import { buttonOf, connect, findWallets, reasonOf, signText, switchChain, type Wallet } from "./wallets.ts";

export function prepareSignIn(): void {
  const dialog = document.querySelector<HTMLDialogElement>("#wallet");
  const openers = document.querySelectorAll<HTMLButtonElement>("[data-sign-in]");
  if (dialog === null || openers.length === 0) return;
  const shown = new Dialog(dialog);
  findWallets((wallet) => shown.add(wallet));
  for (const opener of openers) opener.addEventListener("click", () => shown.open());
}

class Dialog {
  readonly #dialog: HTMLDialogElement;
  #isEmpty = true;

  constructor(dialog: HTMLDialogElement) {
    this.#dialog = dialog;
  }

  open(): void {
    this.#show(this.#isEmpty ? "none" : "choose");
    this.#dialog.showModal();
  }

  add(wallet: Wallet): void {
    this.#isEmpty = false;
    this.#part("[data-wallets]").append(buttonOf(wallet, () => void this.#run(() => this.#prepare(wallet))));
    if (this.#dialog.open) this.#show("choose");
  }

  async #prepare(wallet: Wallet): Promise<void> {
    const account = await connect(wallet);
    await switchChain(wallet, Number(document.body.dataset["chainId"]));
    const { message } = (await post("/sign-in/challenge", { account })) as { message: string };
    this.#part("[data-message]").textContent = message;
    this.#show("sign");
    const button = this.#part("[data-sign]") as HTMLButtonElement;
    button.focus();
    button.onclick = () => void this.#run(() => signIn(wallet, account, message));
  }

  /** Runs a step; a refusal is shown, and the step can be repeated. */
  async #run(step: () => Promise<void>): Promise<void> {
    const fault = this.#part("[data-fault]");
    fault.textContent = "";
    this.#dialog.setAttribute("aria-busy", "true");
    try {
      await step();
    } catch (error) {
      fault.textContent = reasonOf(error);
    } finally {
      this.#dialog.removeAttribute("aria-busy");
    }
  }

  #show(step: "choose" | "none" | "sign"): void {
    for (const part of this.#dialog.querySelectorAll<HTMLElement>("[data-step]")) {
      part.hidden = part.dataset["step"] !== step;
    }
    this.#part("[data-wallets]").hidden = step !== "choose";
    this.#part("[data-fault]").textContent = "";
  }

  #part(selector: string): HTMLElement {
    return this.#dialog.querySelector<HTMLElement>(selector)!;
  }
}

async function signIn(wallet: Wallet, account: string, message: string): Promise<void> {
  await post("/sign-in", { message, signature: await signText(wallet, account, message) });
  location.reload();
}
