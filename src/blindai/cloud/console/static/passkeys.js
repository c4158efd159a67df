// Makes and uses passkeys (Web Authentication Level 3). The server gives the options and checks the answer; this only
// carries both between it and the browser.
"use strict";

(() => {
  function bytes(text) {
    const packed = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from(packed, (one) => one.charCodeAt(0));
  }

  function text(buffer) {
    const packed = String.fromCharCode(...new Uint8Array(buffer));
    return btoa(packed).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  const described = (list) => (list ?? []).map((one) => ({ ...one, id: bytes(one.id) }));

  async function create(options) {
    const made = await navigator.credentials.create({
      publicKey: {
        ...options,
        challenge: bytes(options.challenge),
        user: { ...options.user, id: bytes(options.user.id) },
        excludeCredentials: described(options.excludeCredentials),
      },
    });
    return packed(made, {
      attestationObject: text(made.response.attestationObject),
      transports: made.response.getTransports?.() ?? [],
    });
  }

  async function get(options) {
    const found = await navigator.credentials.get({
      publicKey: {
        ...options,
        challenge: bytes(options.challenge),
        allowCredentials: described(options.allowCredentials),
      },
    });
    const { authenticatorData, signature, userHandle } = found.response;
    return packed(found, {
      authenticatorData: text(authenticatorData),
      signature: text(signature),
      userHandle: userHandle ? text(userHandle) : null,
    });
  }

  // The form that servers read (section 5.1.8, RegistrationResponseJSON and AuthenticationResponseJSON).
  function packed(credential, response) {
    return JSON.stringify({
      id: credential.id,
      rawId: text(credential.rawId),
      type: credential.type,
      authenticatorAttachment: credential.authenticatorAttachment,
      clientExtensionResults: credential.getClientExtensionResults(),
      response: { clientDataJSON: text(credential.response.clientDataJSON), ...response },
    });
  }

  async function optionsOf(place, form) {
    const sent = new URLSearchParams();
    for (const field of form.elements) {
      if (field.name && field.type !== "password" && !field.disabled) sent.set(field.name, field.value);
    }
    const answer = await fetch(place.dataset.options, { method: "POST", body: sent });
    if (!(answer.headers.get("content-type") ?? "").startsWith("application/json")) {
      throw new Error("The page is too old. Load it again.");
    }
    const read = await answer.json();
    if (answer.ok) return read;
    const words = read.error.charAt(0).toUpperCase() + read.error.slice(1);
    throw new Error(`${words}. ${read.hint ? `Next: ${read.hint}. ` : ""}${read.code}`);
  }

  function reason(error) {
    if (error.name === "NotAllowedError") return "It was cancelled, or took too long. Try again.";
    if (error.name === "InvalidStateError") return "This device has a passkey for this account already.";
    if (error.name === "SecurityError") return "The browser does not take this address for one that has passkeys.";
    return error.message;
  }

  async function press(place, form, button, told) {
    const making = place.dataset.passkey === "create";
    const fields = [...form.elements].filter((field) => field.type !== "password");
    told.hidden = true;
    if (making && !fields.every((field) => field.reportValidity())) return;
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    try {
      const options = await optionsOf(place, form);
      const response = place.querySelector("input[name=response]");
      response.value = await (making ? create(options) : get(options));
      response.disabled = false;
      for (const field of form.elements) if (field.type === "password") field.disabled = true;
      form.action = place.dataset.action;
      form.submit();
    } catch (error) {
      told.textContent = reason(error);
      told.hidden = false;
      button.disabled = false;
    } finally {
      button.removeAttribute("aria-busy");
    }
  }

  function start() {
    if (!window.PublicKeyCredential) return;
    for (const place of document.querySelectorAll("[data-passkey]")) {
      const button = place.querySelector("button");
      const told = place.querySelector("[role=alert]");
      place.hidden = false;
      button.addEventListener("click", () => press(place, place.closest("form"), button, told));
    }
    // A page that comes back from the browser's memory has a form that was sent already.
    window.addEventListener("pageshow", (event) => event.persisted && location.reload());
    for (const one of document.querySelectorAll("[data-without-passkeys]")) one.hidden = true;
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
