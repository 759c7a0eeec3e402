/** Follows a running job by its event stream: the page's part that changes loads again, at most once a second. */

const BETWEEN_MS = 1000;

function follow(): void {
  const path = document.querySelector<HTMLElement>("#live[data-events]")?.dataset["events"];
  if (path === undefined) return;
  const source = new EventSource(path);
  let waiting: number | undefined;
  const refresh = (): void => {
    waiting ??= window.setTimeout(() => {
      waiting = undefined;
      document.querySelector("#live")?.dispatchEvent(new Event("refresh"));
    }, BETWEEN_MS);
  };
  for (const kind of KINDS) source.addEventListener(kind, refresh);
  // The stream ends with the job. A browser would connect again, and get all events once more.
  source.addEventListener("error", () => {
    source.close();
    refresh();
  });
}

const KINDS = [
  "state",
  "dataset",
  "progress",
  "working",
  "eval",
  "retry",
  "failed",
  "screening",
  "published",
  "charged",
];

follow();
