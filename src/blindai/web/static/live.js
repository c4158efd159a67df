// What pages do while they are looked at: they refresh when the server says that something has changed, and their
// clocks run. Without scripts every page still shows all it has to say, and every form still works.
"use strict";

(() => {
  // Only htmx makes HTML out of text, and only out of answers of this server.
  const policy = window.trustedTypes
    ? trustedTypes.createPolicy("htmx", { createHTML: (text) => text })
    : { createHTML: (text) => text };
  const refuse = function () {
    throw new Error("no page has code in its attributes");
  };
  htmx.registerExtension("trusted", { init: (api) => api.initSecurity(policy, refuse, refuse) });

  // What the reader has opened, typed and chosen stays when the page is refreshed.
  const KEPT = { DETAILS: "open", INPUT: "value", OPTION: "selected" };
  htmx.registerExtension("keep", {
    htmx_before_morph_attr: (element, detail) => KEPT[element.tagName] !== detail.attrName || element.type === "hidden",
  });

  // The clock of this machine may be wrong: times are counted from when the server made the page.
  let ahead = 0;
  function setClock() {
    const made = document.querySelector("[data-now]");
    if (made) ahead = Date.now() - Date.parse(made.dataset.now);
  }

  function span(seconds) {
    const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
    const index = units.findIndex(([size]) => seconds >= size);
    if (index < 0) return "0 s";
    const [size, name] = units[index];
    const whole = Math.floor(seconds / size);
    const rest = index + 1 < units.length ? Math.floor((seconds % size) / units[index + 1][0]) : 0;
    return rest > 0 && whole < 10 && size > 1 ? `${whole} ${name} ${rest} ${units[index + 1][1]}` : `${whole} ${name}`;
  }

  function tick() {
    const now = Date.now() - ahead;
    for (const element of document.querySelectorAll("time[data-ago], time[data-left]")) {
      const seconds = (Date.parse(element.dateTime) - now) / 1000;
      let text;
      if ("ago" in element.dataset) text = seconds > -1 ? "just now" : `${span(-seconds)} ago`;
      else text = seconds > 0 ? `in ${span(Math.ceil(seconds))}` : `${span(-seconds)} ago`;
      if (element.textContent !== text) element.textContent = text;
    }
  }

  let source = null;
  function connect() {
    const place = document.querySelector("[data-live]");
    if (!place || document.hidden || source) return;
    const opened = new EventSource(place.dataset.live);
    source = opened;
    opened.addEventListener("changed", () => htmx.trigger(document.body, "changed"));
    opened.addEventListener("open", () => say(true));
    opened.addEventListener("error", () => {
      say(false);
      if (opened.readyState === EventSource.CLOSED && source === opened) source = null;
    });
  }

  function say(live) {
    for (const element of document.querySelectorAll("[data-live-state]")) {
      element.dataset.liveState = live ? "live" : "cut";
      element.textContent = live ? "live" : "not live";
      element.title = live
        ? "This page shows changes by itself"
        : "The line to the custodian is cut, or you were signed out: load the page again";
    }
  }

  // A link that looks like a button is pressed like one.
  function press(event) {
    if (event.key !== " " || !event.target.matches('a[role="button"]')) return;
    event.preventDefault();
    event.target.click();
  }

  function start() {
    document.addEventListener("keydown", press);
    setClock();
    tick();
    setInterval(tick, 1000);
    connect();
    // Browsers allow six connections to one server: tabs that nobody looks at give theirs back.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) {
        source?.close();
        source = null;
      } else {
        connect();
        htmx.trigger(document.body, "changed");
      }
    });
    setInterval(connect, 5000);
    document.body.addEventListener("htmx:after:swap", () => {
      setClock();
      tick();
    });
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
