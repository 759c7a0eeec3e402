/** Adds a button to each `[data-copy]` that copies its text. The attribute names the text for screen readers. */

const SHOWN_MS = 2000;

export function prepareCopying(): void {
  document.addEventListener("htmx:after:swap", addButtons);
  addButtons();
}

function addButtons(): void {
  for (const source of document.querySelectorAll<HTMLElement>("[data-copy]:not([data-has-button])")) {
    source.dataset["hasButton"] = "";
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy ${source.dataset["copy"] || "this"}`);
    button.addEventListener("click", () => void copy(source, button));
    const block = source.closest("pre") ?? source;
    block.after(button);
  }
}

async function copy(source: HTMLElement, button: HTMLButtonElement): Promise<void> {
  try {
    await navigator.clipboard.writeText(source.textContent ?? "");
    button.textContent = "Copied";
  } catch {
    getSelection()?.selectAllChildren(source);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), SHOWN_MS);
}
