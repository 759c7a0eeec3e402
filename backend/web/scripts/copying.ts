/** Enables each `button.copy`, which copies the text before it. Buttons are rendered disabled, in their place. */

const SHOWN_MS = 2000;

export function prepareCopying(): void {
  document.addEventListener("htmx:after:swap", enable);
  enable();
}

function enable(): void {
  for (const button of document.querySelectorAll<HTMLButtonElement>("button.copy:disabled")) {
    button.disabled = false;
    button.addEventListener("click", () => void copy(button.previousElementSibling!, button));
  }
}

async function copy(source: Element, button: HTMLButtonElement): Promise<void> {
  try {
    await navigator.clipboard.writeText(source.textContent ?? "");
    button.textContent = "Copied";
  } catch {
    getSelection()?.selectAllChildren(source);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), SHOWN_MS);
}
