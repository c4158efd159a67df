// The page that shows a new key: copying it, and not showing it again.
"use strict";

(() => {
  function start() {
    const page = document.querySelector("[data-key-page]");
    const button = document.querySelector("[data-copy]");
    const key = document.getElementById(button.dataset.copy);
    const said = document.getElementById("copied");

    // Loading the page again would send the form again, and make another key.
    history.replaceState(null, "", page.dataset.keyPage);

    button.hidden = false;
    button.addEventListener("click", async () => {
      key.select();
      try {
        await navigator.clipboard.writeText(key.value);
        said.textContent = "Copied.";
      } catch {
        said.textContent = "The browser does not let this page copy. The key is selected: copy it yourself.";
      }
    });

    // Whoever comes back by the browser's button does not find it.
    addEventListener("pagehide", () => {
      key.value = "";
    });
    addEventListener("pageshow", (event) => {
      if (event.persisted) location.replace(page.dataset.keyPage);
    });
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
