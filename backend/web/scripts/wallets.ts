/** Wallets of this browser: found by EIP-6963, spoken to by EIP-1193 `request` alone. */

export interface Provider {
  request(call: { method: string; params?: readonly unknown[] }): Promise<unknown>;
}

export interface Wallet {
  readonly info: { readonly uuid: string; readonly name: string; readonly icon: string };
  readonly provider: Provider;
}

/** A transaction as `eth_sendTransaction` takes it, without its sender. */
export interface Transaction {
  readonly to: string;
  readonly data: string;
  readonly value: string;
  readonly gas?: string;
}

/** Messages for a wallet that refuses, by the codes of EIP-1193 and EIP-1474. */
const REFUSALS: ReadonlyMap<number, string> = new Map([
  [4001, "You declined in the wallet. Nothing was signed or sent."],
  [4100, "The wallet has not allowed this page to do that. Connect it again."],
  [4200, "The wallet does not support this."],
  [4900, "The wallet is not connected to any chain. Open it and check its network."],
  [-32002, "The wallet already has an open question. Open the wallet and answer it."],
]);
const UNKNOWN_CHAIN = 4902;
const NO_GAS = /insufficient funds|enough funds/i;

/** Calls `found` for each wallet that announces itself, now or later. */
export function findWallets(found: (wallet: Wallet) => void): void {
  const seen = new Set<string>();
  window.addEventListener("eip6963:announceProvider", (event) => {
    const wallet = (event as CustomEvent<Wallet>).detail;
    if (!isWallet(wallet) || seen.has(wallet.info.uuid)) return;
    seen.add(wallet.info.uuid);
    found(wallet);
  });
  window.dispatchEvent(new Event("eip6963:requestProvider"));
}

/** Connects: the account that the wallet's owner chooses. */
export async function connect({ provider }: Wallet): Promise<string> {
  const accounts = await provider.request({ method: "eth_requestAccounts" });
  const [account] = Array.isArray(accounts) ? accounts : [];
  if (typeof account !== "string") throw new Error("The wallet gave no account.");
  return account.toLowerCase();
}

/** Whether the wallet already lets this page see the account. Asks its owner nothing. */
export async function hasAccount({ provider }: Wallet, account: string): Promise<boolean> {
  try {
    const accounts = await provider.request({ method: "eth_accounts" });
    return Array.isArray(accounts) && accounts.some((one) => String(one).toLowerCase() === account);
  } catch {
    return false; // it can still be chosen
  }
}

/** Has the wallet switch to the market's chain if it is on another one. */
export async function switchChain({ provider }: Wallet, chainId: number): Promise<void> {
  const wanted = `0x${chainId.toString(16)}`;
  if (Number(await provider.request({ method: "eth_chainId" })) === chainId) return;
  try {
    await provider.request({ method: "wallet_switchEthereumChain", params: [{ chainId: wanted }] });
  } catch (error) {
    if (codeOf(error) !== UNKNOWN_CHAIN) throw error;
    await addLocalChain(provider, wanted);
  }
}

/** Offers the wallet the local network, whose node the page names. Wallets know the chains of public markets. */
async function addLocalChain(provider: Provider, chainId: string): Promise<void> {
  const node = document.body.dataset["localNode"];
  if (node === undefined) {
    throw new Error(
      `The wallet does not know chain ${Number(chainId)}, which this market is on. Add it there first.`,
    );
  }
  const chain = {
    chainId,
    chainName: "loraledger, local network",
    nativeCurrency: { name: "Test ether", symbol: "ETH", decimals: 18 },
    rpcUrls: [node],
  };
  await provider.request({ method: "wallet_addEthereumChain", params: [chain] });
  await provider.request({ method: "wallet_switchEthereumChain", params: [{ chainId }] });
}

/** Signs a text (`personal_sign`). */
export async function signText({ provider }: Wallet, account: string, text: string): Promise<string> {
  const bytes = new TextEncoder().encode(text);
  const hex = `0x${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  return String(await provider.request({ method: "personal_sign", params: [hex, account] }));
}

/** Signs an EIP-712 message. */
export async function signTypedData({ provider }: Wallet, account: string, data: unknown): Promise<string> {
  const params = [account, JSON.stringify(data)];
  return String(await provider.request({ method: "eth_signTypedData_v4", params }));
}

/** Has the wallet send a transaction on this chain, and on no other that it may have switched to. Returns its hash. */
export async function sendTransaction(
  { provider }: Wallet,
  account: string,
  chainId: number,
  transaction: Transaction,
): Promise<string> {
  const params = [{ from: account, chainId: `0x${chainId.toString(16)}`, ...transaction }];
  return String(await provider.request({ method: "eth_sendTransaction", params }));
}

/** A list item whose button chooses the wallet. */
export function buttonOf({ info }: Wallet, chosen: () => void): HTMLElement {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  if (/^data:image\//.test(info.icon)) {
    const icon = document.createElement("img");
    icon.src = info.icon;
    icon.alt = "";
    button.append(icon);
  }
  button.append(info.name);
  button.addEventListener("click", chosen);
  const item = document.createElement("li");
  item.append(button);
  return item;
}

/** The message of an error of a wallet or of this market. */
export function reasonOf(error: unknown): string {
  const known = REFUSALS.get(codeOf(error) ?? 0);
  if (known !== undefined) return known;
  const message = (error as { message?: unknown } | null)?.message;
  if (typeof message !== "string" || message === "") return "The wallet failed without a reason.";
  if (NO_GAS.test(message))
    return "This account has too little of the chain's coin to pay for gas. Send it some, and try again. Nothing was sent.";
  return message;
}

function codeOf(error: unknown): number | null {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "number" ? code : null;
}

function isWallet(value: unknown): value is Wallet {
  const { info, provider } = (value ?? {}) as Partial<Wallet>;
  return (
    typeof info?.uuid === "string" && typeof info.name === "string" && typeof provider?.request === "function"
  );
}
