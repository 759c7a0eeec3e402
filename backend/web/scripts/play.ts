/** The playground: sends one prompt to several models at once, streams the answers, and shows the bill of each. */

import { formHeaders, SESSION_API } from "./market.ts";
import { reasonOf } from "./wallets.ts";

declare const htmx: {
  ajax(
    verb: string,
    path: string,
    options: { source: Element; target: Element; swap: string },
  ): Promise<void>;
};

interface Bill {
  readonly charge: { readonly usd: string };
  readonly receipt_id?: string;
  readonly charge_id?: string;
}

interface Chunk {
  readonly choices?: readonly { readonly delta?: { readonly content?: string | null } }[];
  readonly loraledger?: Bill;
  readonly error?: { readonly message: string };
}

/** A column of the page, and what it asks. */
interface Question {
  readonly column: HTMLElement;
  readonly name: string;
  /** The request's body, byte for byte: its hash is in the receipt. */
  readonly body: string;
}

class Playground {
  readonly #form: HTMLFormElement;
  readonly #answers: HTMLElement;
  #running = new AbortController();
  /** Addresses of the files that are offered now. */
  readonly #files: string[] = [];

  constructor(form: HTMLFormElement, answers: HTMLElement) {
    this.#form = form;
    this.#answers = answers;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#ask();
    });
    for (const button of form.querySelectorAll<HTMLButtonElement>("[data-ask]")) button.disabled = false;
    form.addEventListener("input", () => this.#showBlend());
    this.#stop.addEventListener("click", () => this.#running.abort());
  }

  async #ask(): Promise<void> {
    const button = this.#form.querySelector<HTMLButtonElement>("[data-ask]")!;
    this.#running = new AbortController();
    for (const column of this.#answers.querySelectorAll<HTMLElement>("[data-answer]")) column.hidden = true;
    for (const file of this.#files.splice(0)) URL.revokeObjectURL(file);
    button.disabled = true;
    this.#stop.disabled = false;
    this.#answers.setAttribute("aria-busy", "true");
    await Promise.all(this.#questions().map((question) => this.#answer(question)));
    this.#answers.setAttribute("aria-busy", "false");
    button.disabled = false;
    this.#stop.disabled = true;
  }

  #questions(): Question[] {
    const [left, right, base] = [this.#value("left"), this.#value("right"), this.#base()];
    const asked = [this.#question("left", left, { model: left })];
    if (right !== "") asked.push(this.#question("right", right, { model: right }));
    if (this.#isChecked("with_base")) asked.push(this.#question("base", base, { model: base }));
    if (this.#isChecked("with_blend") && right !== "") {
      const part = Number(this.#value("blend"));
      const blend = [
        { model: left, weight: part / 100 },
        { model: right, weight: (100 - part) / 100 },
      ];
      asked.push(this.#question("blend", this.#blendWords(), { model: base, loraledger: { blend } }));
    }
    return asked;
  }

  /** Name of the left adapter's base model, or of the first one while there is no adapter. */
  #base(): string {
    const left = this.#form.querySelector<HTMLSelectElement>("select[name=left]")!;
    return (left.selectedOptions[0] ?? this.#answers).dataset["base"]!;
  }

  #question(key: string, name: string, what: Readonly<Record<string, unknown>>): Question {
    const body = JSON.stringify({
      ...what,
      messages: [{ role: "user", content: this.#value("prompt") }],
      max_completion_tokens: Number(this.#value("max_tokens")),
      temperature: Number(this.#value("temperature")),
      stream: true,
    });
    return { column: this.#answers.querySelector<HTMLElement>(`[data-answer=${key}]`)!, name, body };
  }

  async #answer({ column, name, body }: Question): Promise<void> {
    const part = (selector: string) => column.querySelector<HTMLElement>(selector)!;
    for (const each of ["[data-said]", "[data-fault]", "[data-bill]", "[data-own]", "[data-files]"])
      part(each).replaceChildren();
    part("[data-name]").textContent = name.split("/").pop()!;
    column.hidden = false;
    try {
      for await (const chunk of streamed(body, this.#running.signal)) {
        if (chunk.error !== undefined) throw new Error(chunk.error.message);
        part("[data-said]").append(chunk.choices?.[0]?.delta?.content ?? "");
        if (chunk.loraledger !== undefined) await this.#showBill(column, chunk.loraledger);
      }
      this.#offerFiles(part("[data-files]"), body, part("[data-said]").textContent!);
    } catch (error) {
      part("[data-fault]").textContent = this.#running.signal.aborted
        ? "Stopped. What was generated until then is charged."
        : reasonOf(error);
    }
  }

  async #showBill(column: HTMLElement, bill: Bill): Promise<void> {
    const number = bill.receipt_id ?? bill.charge_id!;
    const charge = Number(bill.charge.usd);
    const hourly = Number(this.#value("hourly"));
    if (charge > 0 && hourly > 0) {
      const answers = Math.ceil(hourly / charge).toLocaleString("en");
      column.querySelector("[data-own]")!.textContent =
        `Your own machine breaks even at ${answers} such answers an hour.`;
    }
    const target = column.querySelector("[data-bill]")!;
    // Requests of one source wait for each other or are dropped; each column is its own.
    await htmx.ajax("GET", `/play/bills/${number}`, { source: target, target, swap: "innerHTML" });
  }

  /** What the receipt's page needs to check that the receipt is for this request and this answer. */
  #offerFiles(place: HTMLElement, request: string, answer: string): void {
    const link = (name: string, words: string, content: string) => {
      const made = document.createElement("a");
      made.href = URL.createObjectURL(new Blob([content]));
      this.#files.push(made.href);
      made.download = name;
      made.textContent = words;
      return made;
    };
    const links = [link("request.json", "request", request), " and ", link("answer.txt", "answer", answer)];
    place.replaceChildren("Keep ", ...links, " to check the receipt against them.");
  }

  #showBlend(): void {
    this.#form.querySelector("[data-blend]")!.textContent = this.#blendWords();
  }

  #blendWords(): string {
    const part = Number(this.#value("blend"));
    return `${part} % of one, ${100 - part} % of the other`;
  }

  get #stop(): HTMLButtonElement {
    return this.#form.querySelector<HTMLButtonElement>("[data-stop]")!;
  }

  #value(name: string): string {
    return (this.#form.elements.namedItem(name) as HTMLInputElement | HTMLSelectElement).value.trim();
  }

  #isChecked(name: string): boolean {
    return (this.#form.elements.namedItem(name) as HTMLInputElement).checked;
  }
}

/** The chunks of a streamed answer. Errors: with the market's message. */
async function* streamed(body: string, signal: AbortSignal): AsyncGenerator<Chunk> {
  const response = await fetch(`${SESSION_API}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...formHeaders() },
    body,
    signal,
  });
  if (!response.ok) {
    const { error } = (await response.json()) as { error: { message: string } };
    throw new Error(error.message);
  }
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop()!;
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      if (event.startsWith("data: ")) yield JSON.parse(data) as Chunk;
    }
  }
}

const form = document.querySelector<HTMLFormElement>("form[data-play]");
const answers = document.querySelector<HTMLElement>(".answers");
if (form !== null && answers !== null) new Playground(form, answers);
