/** Requests of the pages to this market. The session is in a cookie; the form's token proves that a page asks. */

const TIMEOUT_MS = 30_000;

/** Sends JSON to a page's address. Errors: with the market's message. */
export async function post(path: string, body: unknown): Promise<unknown> {
  return answerOf(
    await fetch(path, {
      method: "POST",
      headers: {
        accept: "application/json",
        "content-type": "application/json",
        "x-form-token": document.body.dataset["formToken"] ?? "",
      },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    }),
  );
}

export async function get(path: string): Promise<unknown> {
  const headers = { accept: "application/json" };
  return answerOf(await fetch(path, { headers, signal: AbortSignal.timeout(TIMEOUT_MS) }));
}

async function answerOf(response: Response): Promise<unknown> {
  const text = await response.text();
  if (response.ok) return text === "" ? null : (JSON.parse(text) as unknown);
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
