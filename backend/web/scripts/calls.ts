/**
 * Buttons that call the API as the signed-in wallet: `data-call="POST /path"`, without the `/v1` of the path. The
 * page loads again after it; an error is shown in the `[data-fault]` of the same section.
 */

import { api } from "./market.ts";
import { reasonOf } from "./wallets.ts";

type Method = Parameters<typeof api>[0];

export function prepareCalls(): void {
  document.addEventListener("click", (event) => {
    const button = (event.target as Element).closest<HTMLButtonElement>("button[data-call]");
    if (button !== null) void call(button);
  });
}

async function call(button: HTMLButtonElement): Promise<void> {
  const [method, path] = button.dataset["call"]!.split(" ");
  const fault = button.closest("details, section")?.querySelector<HTMLElement>("[data-fault]");
  button.disabled = true;
  try {
    await api(method as Method, path!, method === "POST" ? {} : undefined);
    location.reload();
  } catch (error) {
    if (fault) fault.textContent = reasonOf(error);
    button.disabled = false;
  }
}
