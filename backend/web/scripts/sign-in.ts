/** The dialog that connects a wallet and signs in. It shows what is signed before the wallet opens. */

import { post } from "./market.ts";
import { connect, findWallets, reasonOf, signText, switchChain, type Wallet } from "./wallets.ts";

export function prepareSignIn(): void {
  const dialog = document.querySelector<HTMLDialogElement>("#wallet");
  const opener = document.querySelector<HTMLButtonElement>("[data-sign-in]");
  if (dialog === null || opener === null) return;
  const shown = new Dialog(dialog);
  findWallets((wallet) => shown.add(wallet));
  opener.addEventListener("click", () => shown.open());
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
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    if (/^data:image\//.test(wallet.info.icon)) {
      const icon = document.createElement("img");
      icon.src = wallet.info.icon;
      icon.alt = "";
      button.append(icon);
    }
    button.append(wallet.info.name);
    button.addEventListener("click", () => void this.#run(() => this.#prepare(wallet)));
    const item = document.createElement("li");
    item.append(button);
    this.#part("[data-wallets]").append(item);
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
