/** Requests of the pages to this market. The session is in a cookie; the form's token proves that a page asks. */

const TIMEOUT_MS = 30_000;
/** The API, called with the session of the cookie. */
export const SESSION_API = "/session/v1";

/** The market gave no answer: whether it took the request is not known. */
export class MarketAway extends Error {}

/** Sends JSON to a page's address. Errors: with the market's message. */
export async function post(path: string, body: unknown): Promise<unknown> {
  return send("POST", path, body, TIMEOUT_MS);
}

/** Sends a form as the browser would. Returns the HTML of the answer. Errors: with the market's message. */
export async function postForm(form: HTMLFormElement): Promise<string> {
  const body = new URLSearchParams([...new FormData(form)].map(([name, value]) => [name, String(value)]));
  return textOf(await ask("POST", form.action, body, {}, TIMEOUT_MS));
}

export async function get(path: string): Promise<unknown> {
  return send("GET", path, undefined, TIMEOUT_MS);
}

/** Calls the API (`path` without `/v1`) as the signed-in wallet. Errors: with the market's message. */
export async function api(
  method: "GET" | "POST" | "PATCH" | "DELETE",
  path: string,
  body?: unknown,
  timeoutMs: number = TIMEOUT_MS,
): Promise<unknown> {
  return send(method, `${SESSION_API}${path}`, body, timeoutMs);
}

/** Headers of every request that changes something. */
export function formHeaders(): Record<string, string> {
  return { "x-form-token": document.body.dataset["formToken"] ?? "" };
}

async function send(method: string, path: string, body: unknown, timeoutMs: number): Promise<unknown> {
  const content = body === undefined ? {} : { "content-type": "application/json" };
  const sent = body === undefined ? null : JSON.stringify(body);
  const text = await textOf(await ask(method, path, sent, content, timeoutMs));
  return text === "" ? null : (JSON.parse(text) as unknown);
}

async function ask(
  method: string,
  path: string,
  body: BodyInit | null,
  content: Record<string, string>,
  timeoutMs: number,
): Promise<Response> {
  const headers = { accept: "application/json", ...content, ...formHeaders() };
  try {
    return await fetch(path, { method, headers, body, signal: AbortSignal.timeout(timeoutMs) });
  } catch {
    throw new MarketAway("The market does not answer. Check your connection, and try again.");
  }
}

async function textOf(response: Response): Promise<string> {
  const text = await response.text();
  if (response.ok) return text;
  let message: unknown;
  try {
    message = (JSON.parse(text) as { error?: { message?: unknown } }).error?.message;
  } catch {
    message = undefined;
  }
  throw new Error(
    typeof message === "string" ? message : `The market answered with HTTP ${response.status}.`,
  );
}
