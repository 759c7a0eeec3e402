/** Resumable transfers of files by the tus protocol, and forms that show how they go. */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { Upload } from "tus-js-client";

import { api, formHeaders, SESSION_API } from "./market.ts";
import { reasonOf } from "./wallets.ts";

interface Transfer {
  readonly id: string;
  readonly sha256: string | null;
}

type Show = (what: string, part: number | null) => void;

const PIECE_BYTES = 8_000_000;
const RETRY_MS = [0, 1000, 3000, 5000, 10_000, 30_000];

/** A form with a `[data-status]` and a `[data-fault]`. Without the script its button is disabled. */
export class TransferForm {
  readonly form: HTMLFormElement;

  constructor(form: HTMLFormElement) {
    this.form = form;
    form.querySelector("button")!.disabled = false;
  }

  /** Runs a step; a refusal is shown, and the step can be repeated. */
  async run(step: () => Promise<void>): Promise<void> {
    const button = this.form.querySelector("button")!;
    const fault = this.form.querySelector<HTMLElement>("[data-fault]")!;
    fault.textContent = "";
    button.disabled = true;
    try {
      await step();
    } catch (error) {
      fault.textContent = reasonOf(error);
    } finally {
      button.disabled = false;
      this.#status.hidden = true;
    }
  }

  /** `part`: of 1; null while it is unknown. */
  readonly show: Show = (what, part) => {
    this.#status.hidden = false;
    const progress = this.#status.querySelector("progress")!;
    if (part === null) progress.removeAttribute("value");
    else progress.value = part;
    const text = part === null ? what : `${what}: ${Math.floor(part * 100)} %`;
    const shown = this.#status.querySelector("span")!;
    if (shown.textContent !== text) shown.textContent = text;
  };

  get files(): readonly File[] {
    return [...this.form.querySelector<HTMLInputElement>("input[type=file]")!.files!];
  }

  value(name: string): string {
    return this.form.querySelector<HTMLInputElement | HTMLSelectElement>(`[name=${name}]`)!.value.trim();
  }

  get #status(): HTMLElement {
    return this.form.querySelector<HTMLElement>("[data-status]")!;
  }
}

/** Sends what the market does not have yet of a file. Returns the id of the complete transfer. */
export async function transferFile(file: File, show: Show): Promise<string> {
  const digest = await digestOf(file, (part) => show(`Reading ${file.name}`, part));
  const { data } = (await api("GET", "/transfers")) as { data: Transfer[] };
  const begun = data.find((one) => one.sha256 === digest);
  return new Promise((resolve, reject) => {
    const upload = new Upload(file, {
      endpoint: `${SESSION_API}/transfers`,
      uploadUrl: begun === undefined ? null : `${SESSION_API}/transfers/${begun.id}`,
      headers: formHeaders(),
      metadata: { sha256: digest },
      chunkSize: PIECE_BYTES,
      retryDelays: RETRY_MS,
      storeFingerprintForResuming: false, // the market lists its transfers by digest
      onProgress: (sent, total) => show(`Uploading ${file.name}`, total === 0 ? 1 : sent / total),
      onSuccess: () => resolve(upload.url!.split("/").pop()!),
      onError: (error) => reject(messageOf(error)),
    });
    upload.start();
  });
}

async function digestOf(file: File, show: (part: number) => void): Promise<string> {
  const hash = sha256.create();
  for (let start = 0; start < file.size; start += PIECE_BYTES) {
    hash.update(new Uint8Array(await file.slice(start, start + PIECE_BYTES).arrayBuffer()));
    show(Math.min(1, (start + PIECE_BYTES) / file.size));
  }
  return bytesToHex(hash.digest());
}

/** The market's message of a failed request of the tus client, which quotes the whole response. */
function messageOf(error: Error): Error {
  const response = (error as { originalResponse?: { getBody(): string } | null }).originalResponse;
  try {
    const { message } = (JSON.parse(response?.getBody() ?? "") as { error: { message: string } }).error;
    return new Error(message);
  } catch {
    return new Error("The market cannot be reached. Choose the same file again: the upload goes on.");
  }
}
