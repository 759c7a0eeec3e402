/** Wallets of this browser: found by EIP-6963, spoken to by EIP-1193 `request` alone. */

export interface Provider {
  request(call: { method: string; params?: readonly unknown[] }): Promise<unknown>;
}

export interface Wallet {
  readonly info: { readonly uuid: string; readonly name: string; readonly icon: string };
  readonly provider: Provider;
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

/** Has the wallet switch to the market's chain if it is on another one. */
export async function switchChain({ provider }: Wallet, chainId: number): Promise<void> {
  const wanted = `0x${chainId.toString(16)}`;
  if (Number(await provider.request({ method: "eth_chainId" })) === chainId) return;
  try {
    await provider.request({ method: "wallet_switchEthereumChain", params: [{ chainId: wanted }] });
  } catch (error) {
    if (codeOf(error) !== UNKNOWN_CHAIN) throw error;
    throw new Error(
      `The wallet does not know chain ${chainId}, which this market is on. Add it there first.`,
    );
  }
}

/** Signs a text (`personal_sign`). */
export async function signText({ provider }: Wallet, account: string, text: string): Promise<string> {
  const bytes = new TextEncoder().encode(text);
  const hex = `0x${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  return String(await provider.request({ method: "personal_sign", params: [hex, account] }));
}

/** The message of an error of a wallet or of this market. */
export function reasonOf(error: unknown): string {
  const known = REFUSALS.get(codeOf(error) ?? 0);
  if (known !== undefined) return known;
  const message = (error as { message?: unknown } | null)?.message;
  return typeof message === "string" && message !== "" ? message : "The wallet failed without a reason.";
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
