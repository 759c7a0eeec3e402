/**
 * Uploads rows for a datanet, has them checked, and shows the report. The market keeps no refused rows: the lines
 * of its defects are shown from the visitor's own file.
 */

import { excerptsOf } from "./excerpts.ts";
import { api } from "./market.ts";
import { TransferForm, transferFile } from "./transfer.ts";

declare const htmx: {
  ajax(verb: string, path: string, target: { target: Element; swap: string }): Promise<void>;
};

/** The market checks as long as it receives the transfer's rows: minutes for gigabytes. */
const CHECK_MS = 3_600_000;

class Contribution {
  readonly #form: TransferForm;
  readonly #report: HTMLElement;

  constructor(form: HTMLFormElement, report: HTMLElement) {
    this.#form = new TransferForm(form);
    this.#report = report;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#form.run(() => this.#upload());
    });
    report.addEventListener("click", (event) => {
      const button = (event.target as Element).closest<HTMLElement>("[data-accept-partial]");
      if (button !== null) void this.#form.run(() => this.#check(button.dataset["acceptPartial"]!, true));
    });
  }

  async #upload(): Promise<void> {
    this.#report.replaceChildren();
    await this.#check(await transferFile(this.#file, this.#form.show), false);
  }

  async #check(transfer: string, acceptsPartial: boolean): Promise<void> {
    this.#form.show("Checking every row", null);
    const query = new URLSearchParams({
      datanet: this.#form.form.dataset["upload"]!,
      name: this.#form.value("name") || this.#file.name.slice(0, 100),
      licence: this.#form.value("licence"),
      accept_partial: String(acceptsPartial),
      transfer,
    });
    const { id } = (await api("POST", `/contributions?${query}`, undefined, CHECK_MS)) as { id: string };
    await htmx.ajax("GET", `/u/${id}?${new URLSearchParams({ transfer })}`, {
      target: this.#report,
      swap: "innerHTML",
    });
    this.#report.scrollIntoView({ block: "nearest" });
    await this.#showExcerpts();
  }

  async #showExcerpts(): Promise<void> {
    const places = [...this.#report.querySelectorAll<HTMLElement>("[data-line]")];
    const wanted = places.map((one) => ({ line: Number(one.dataset["line"]), field: one.dataset["field"]! }));
    for (const [index, text] of await excerptsOf(this.#file, wanted)) {
      places[index]!.querySelector("code")!.textContent = text;
      places[index]!.hidden = false;
    }
  }

  get #file(): File {
    return this.#form.files[0]!;
  }
}

const form = document.querySelector<HTMLFormElement>("form[data-upload]");
const report = document.querySelector<HTMLElement>("#report");
if (form !== null && report !== null) new Contribution(form, report);
