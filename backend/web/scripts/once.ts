/** Forms with `data-once` are sent once: a second click before the answer would do the same again. */

export function prepareOnce(): void {
  document.addEventListener("submit", (event) => {
    const { dataset } = event.target as HTMLFormElement;
    if (dataset["once"] === undefined || event.defaultPrevented) return;
    if (dataset["once"] === "sent") event.preventDefault();
    else dataset["once"] = "sent";
  });
  window.addEventListener("pageshow", () => {
    // The browser may show the page again as it was left.
    for (const form of document.querySelectorAll<HTMLFormElement>("form[data-once]"))
      form.dataset["once"] = "";
  });
}
