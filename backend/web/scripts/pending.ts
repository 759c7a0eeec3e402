/**
 * Transactions under way, listed in `#pending` and followed until the market shows their effects: then a
 * `transaction` event on the body has fragments load again. A page that is loaded again continues.
 */

import { get } from "./market.ts";
import { findReplacement, type Replacement, type Sent } from "./replacement.ts";
import { findWallets, type Wallet } from "./wallets.ts";

/**
 * `action`: in words; `path`: where this market answers its state. Of a transaction that the visitor's wallet sent:
 * `sent`; once another one took its place, which is at `path` then: `replaced`.
 */
export interface Underway {
  readonly action: string;
  readonly path: string;
  readonly sent?: Sent;
  readonly replaced?: Replacement;
}

interface Found {
  readonly state: string;
  readonly error?: { readonly message?: string } | null;
}

const WORDS: ReadonlyMap<string, string> = new Map([
  ["queued", "The operator sends it next."],
  ["sent", "It waits for a block."],
  ["mined", "It is in a block. Further blocks confirm it."],
  ["confirmed", "Done. This page shows what it changed."],
  ["failed", "Nothing was changed, except for the gas. Start it again: the page then says why it fails."],
]);
const MARKS = new Map([
  ["confirmed", "right"],
  ["failed", "wrong"],
  ["cancelled", "wrong"],
  ["replaced", "wrong"],
]);
const FIRST_MS = 250;
const LAST_MS = 10_000;
const GROWTH = 1.5;

const wallets: Wallet[] = [];
findWallets((wallet) => wallets.push(wallet));

/** Where this market answers the state of a transaction that a wallet sent. */
export function pathOf(hash: string): string {
  return `/transactions/${hash}`;
}

/** Lists and follows a transaction. Resolves once it is in a block; rejects if it failed there or is dismissed. */
export function follow(one: Underway): Promise<void> {
  keep([...kept().filter(({ path }) => path !== one.path), one]);
  const row = rowOf(one);
  return new Promise((resolve, reject) => void watch(one, row, resolve, reject));
}

/** Lists what was not sent, and why. */
export function listFailure(action: string, reason: string): void {
  show(rowOf({ action, path: "" }), "not sent", reason, "wrong");
}

/** Follows what was under way when the page was left. */
export function followAgain(): void {
  for (const one of kept()) follow(one).catch(() => undefined); // its row says why
}

async function watch(
  begun: Underway,
  row: HTMLElement,
  mined: () => void,
  failed: (reason: Error) => void,
): Promise<void> {
  let one = begun;
  for (let wait = FIRST_MS; row.isConnected; wait = Math.min(wait * GROWTH, LAST_MS)) {
    await untilVisible();
    const found = await stateOf(one);
    if (found.state === "sent") one = await lookAfter(one);
    row.dataset["path"] = one.path;
    const { state, words } = inWords(one, found);
    show(row, state, words);
    const mark = MARKS.get(state);
    if (state === "mined" || mark === "right") mined();
    if (mark !== undefined) {
      keep(kept().filter(({ path }) => path !== one.path));
      if (mark === "wrong") failed(new Error(words));
      document.body.dispatchEvent(new Event("transaction"));
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
  failed(new Error("You dismissed it, so this page does not know when it is in a block. Try again then."));
}

/** The transaction as the wallet's node knows it: with its nonce, or with the one that took its place. */
async function lookAfter(one: Underway): Promise<Underway> {
  if (one.sent === undefined) return one;
  let found: Sent | Replacement;
  try {
    found = await findReplacement(wallets, Number(document.body.dataset["chainId"]), one.sent);
  } catch {
    return one; // the wallet does not answer now: it is asked again
  }
  const changed: Underway =
    "kind" in found
      ? { action: one.action, path: pathOf(found.hash), replaced: found }
      : { ...one, sent: found };
  keep(kept().map((kept) => (kept.path === one.path ? changed : kept)));
  return changed;
}

/** The state that the list shows, and what it says about it. */
function inWords({ replaced }: Underway, { state, error }: Found): { state: string; words: string } {
  const words = error?.message ?? WORDS.get(state) ?? "";
  if (replaced === undefined) return { state, words };
  const { kind, hash } = replaced;
  if (kind === "repeated") return { state, words: `Your wallet sent it again as ${hash}. ${words}` };
  const what =
    kind === "cancelled"
      ? `You cancelled it in the wallet, by transaction ${hash}. Nothing was changed.`
      : `Your wallet sent another transaction in its place: ${hash}. Start this one again if you still want it.`;
  if (state === "confirmed" || state === "failed")
    return { state: kind === "cancelled" ? "cancelled" : "replaced", words: what };
  const until = kind === "cancelled" ? "cancelling" : "replacing";
  return { state: until, words: `${what} Further blocks confirm that.` };
}

async function stateOf({ path }: Underway): Promise<Found> {
  try {
    return (await get(path)) as Found;
  } catch (error) {
    const reason = error instanceof Error ? error.message : "";
    return {
      state: "unknown",
      error: { message: `${reason} The transaction is not lost; this page asks again.` },
    };
  }
}

/** A hidden page asks nothing. */
async function untilVisible(): Promise<void> {
  if (!document.hidden) return;
  await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  await untilVisible();
}

function rowOf(one: Underway): HTMLElement {
  const list = document.querySelector<HTMLElement>("#pending")!;
  const row = document.createElement("li");
  row.dataset["path"] = one.path;
  const [title, state, words] = ["strong", "span", "span"].map((tag) => document.createElement(tag));
  title!.textContent = one.action;
  state!.className = "tag";
  words!.className = "hint";
  words!.dataset["message"] = "";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = "Dismiss";
  button.setAttribute("aria-label", `Dismiss: ${one.action}`);
  button.addEventListener("click", () => {
    keep(kept().filter(({ path }) => path !== row.dataset["path"]));
    row.remove();
    list.hidden = list.childElementCount === 0;
  });
  row.append(title!, " ", state!, words!, button);
  list.append(row);
  list.hidden = false;
  show(row, "sent", "");
  return row;
}

function show(row: HTMLElement, state: string, words: string, mark = MARKS.get(state) ?? "open"): void {
  row.dataset["state"] = mark;
  row.querySelector(".tag")!.textContent = state;
  row.querySelector("[data-message]")!.textContent = words;
}

function key(): string {
  return `pending:${document.body.dataset["account"] ?? ""}`;
}

function kept(): readonly Underway[] {
  return JSON.parse(localStorage.getItem(key()) ?? "[]") as readonly Underway[];
}

function keep(all: readonly Underway[]): void {
  localStorage.setItem(key(), JSON.stringify(all));
}
