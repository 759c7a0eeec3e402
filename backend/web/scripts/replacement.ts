/**
 * Finds what took the place of a transaction: wallets send another one with the same number (nonce), to pay a
 * higher fee or to cancel it, and the market can only say that the first one is in no block. Read through the
 * visitor's wallet alone.
 */

import { hasAccount, type Wallet } from "./wallets.ts";

/** A transaction that a wallet sent. `nonce`: null until the wallet's node shows it; `since`: a block before it. */
export interface Sent {
  readonly hash: string;
  readonly account: string;
  readonly to: string;
  readonly data: string;
  readonly nonce: number | null;
  readonly since: number;
}

/** `repeated`: the same call, as wallets send it for a higher fee; `cancelled`: an empty one to the account itself. */
export interface Replacement {
  readonly hash: string;
  readonly kind: "repeated" | "cancelled" | "other";
}

interface ChainTransaction {
  readonly hash: string;
  readonly from: string;
  readonly to: string | null;
  readonly input: string;
  readonly nonce: string;
}

/**
 * What replaced the transaction, once it is in a block; else the transaction, with its nonce if that is known. Errors:
 * those of the wallet.
 */
export async function findReplacement(
  wallets: readonly Wallet[],
  chainId: number,
  sent: Sent,
): Promise<Sent | Replacement> {
  const wallet = await walletOf(wallets, sent.account);
  if (wallet === undefined || !(await isOn(wallet, chainId))) return sent;
  const known = (await ask(wallet, "eth_getTransactionByHash", sent.hash)) as ChainTransaction | null;
  if (known !== null) return isBy(known, sent.account) ? { ...sent, nonce: Number(known.nonce) } : sent;
  if (sent.nonce === null || (await nextNonce(wallet, sent.account, "latest")) <= sent.nonce) return sent;
  const other = await sentInstead(wallet, sent, sent.nonce);
  // The user may have switched the wallet to another chain since.
  if (other === undefined || other.hash === sent.hash || !(await isOn(wallet, chainId))) return sent;
  return { hash: other.hash, kind: kindOf(other, sent) };
}

/** Number of the newest block; zero where the wallet does not say. */
export async function newestBlock(wallet: Wallet): Promise<number> {
  try {
    return Number(await ask(wallet, "eth_blockNumber")) || 0;
  } catch {
    return 0;
  }
}

async function walletOf(wallets: readonly Wallet[], account: string): Promise<Wallet | undefined> {
  for (const wallet of wallets) if (await hasAccount(wallet, account)) return wallet;
  return undefined;
}

async function isOn(wallet: Wallet, chainId: number): Promise<boolean> {
  return Number(await ask(wallet, "eth_chainId")) === chainId;
}

/** The account's transaction with this nonce, in the first block after which the nonce is used. */
async function sentInstead(
  wallet: Wallet,
  { account, since }: Sent,
  nonce: number,
): Promise<ChainTransaction | undefined> {
  let [before, block] = [since, Number(await ask(wallet, "eth_blockNumber"))];
  while (before + 1 < block) {
    const middle = Math.floor((before + block) / 2);
    if ((await nextNonce(wallet, account, toHex(middle))) > nonce) block = middle;
    else before = middle;
  }
  const found = (await ask(wallet, "eth_getBlockByNumber", toHex(block), true)) as {
    readonly transactions: readonly ChainTransaction[];
  } | null;
  return found?.transactions.find((one) => isBy(one, account) && Number(one.nonce) === nonce);
}

function kindOf(other: ChainTransaction, sent: Sent): Replacement["kind"] {
  const to = other.to?.toLowerCase();
  if (to === sent.to.toLowerCase() && other.input === sent.data) return "repeated";
  return to === sent.account && other.input === "0x" ? "cancelled" : "other";
}

async function nextNonce(wallet: Wallet, account: string, block: string): Promise<number> {
  return Number(await ask(wallet, "eth_getTransactionCount", account, block));
}

function isBy(transaction: ChainTransaction, account: string): boolean {
  return transaction.from.toLowerCase() === account;
}

function ask({ provider }: Wallet, method: string, ...params: readonly unknown[]): Promise<unknown> {
  return provider.request({ method, params });
}

function toHex(number: number): string {
  return `0x${number.toString(16)}`;
}
