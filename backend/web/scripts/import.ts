/** Uploads an adapter that was trained elsewhere, and opens the page of its screening. */

import { api } from "./market.ts";
import { TransferForm, transferFile } from "./transfer.ts";

async function importAdapter(form: TransferForm): Promise<void> {
  const files: Record<string, string> = {};
  for (const file of form.files) files[file.name] = await transferFile(file, form.show);
  const body = {
    files,
    model: form.value("base"),
    licence: form.value("licence"),
    source: form.value("source"),
    description: form.value("description"),
  };
  const { id } = (await api("POST", "/adapters", body)) as { id: string };
  location.assign(`/jobs/imports/${id}`);
}

const found = document.querySelector<HTMLFormElement>("form[data-import]");
if (found !== null) {
  const form = new TransferForm(found);
  found.addEventListener("submit", (event) => {
    event.preventDefault();
    void form.run(() => importAdapter(form));
  });
}
