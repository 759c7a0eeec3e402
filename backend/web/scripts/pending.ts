/**
 * Transactions under way, listed in `#pending` and followed until the market shows their effects: then a
 * `transaction` event on the body has fragments load again. A page that is loaded again continues.
 */

import { get } from "./market.ts";

/** `action`: in words; `path`: where this market answers its state. */
export interface Underway {
  readonly action: string;
  readonly path: string;
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
]);
const FIRST_MS = 250;
const LAST_MS = 10_000;
const GROWTH = 1.5;

/** Lists and follows a transaction. Resolves once it is in a block; rejects if it failed there or is dismissed. */
export function follow(one: Underway): Promise<void> {
  keep([...kept().filter(({ path }) => path !== one.path), one]);
  const row = rowOf(one);
  return new Promise((resolve, reject) => void watch(one, row, resolve, reject));
}

/** Follows what was under way when the page was left. */
export function followAgain(): void {
  for (const one of kept()) follow(one).catch(() => undefined); // its row says why
}

async function watch(
  one: Underway,
  row: HTMLElement,
  mined: () => void,
  failed: (reason: Error) => void,
): Promise<void> {
  for (let wait = FIRST_MS; row.isConnected; wait = Math.min(wait * GROWTH, LAST_MS)) {
    await untilVisible();
    const { state, error } = await stateOf(one);
    const words = error?.message ?? WORDS.get(state) ?? "";
    show(row, state, words);
    if (state === "mined" || state === "confirmed") mined();
    if (MARKS.has(state)) {
      keep(kept().filter(({ path }) => path !== one.path));
      if (state === "failed") failed(new Error(words));
      document.body.dispatchEvent(new Event("transaction"));
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
  failed(new Error("You dismissed it, so this page does not know when it is in a block. Try again then."));
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
    keep(kept().filter(({ path }) => path !== one.path));
    row.remove();
    list.hidden = list.childElementCount === 0;
  });
  row.append(title!, " ", state!, words!, button);
  list.append(row);
  list.hidden = false;
  show(row, "sent", "");
  return row;
}

function show(row: HTMLElement, state: string, words: string): void {
  row.dataset["state"] = MARKS.get(state) ?? "open";
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
