// The playground: a drawing becomes 8 by 8 numbers, which go to the visitor's own proxy, and from there to an enclave.
"use strict";

(() => {
  const SIDE = 8;
  const INK = 16;
  const DIGITS = 10;
  // Of the canvas's width. As thick, beside its height, as the scanned digits that the example was trained with.
  const PEN = 0.15;
  // The proxy attests an enclave within thirty seconds, or says that it could not.
  const PATIENCE_MS = 45000;
  const MAX_PORT = 65535;
  const SHAPES = ["64", "8,8", "1,8,8"];

  // Digits for whoever cannot draw: lines through points, on a square of 100 by 100.
  const arc = (x, y, across, down, from, to) =>
    Array.from({ length: 25 }, (_, index) => {
      const angle = ((from + ((to - from) * index) / 24) * Math.PI) / 180;
      return [x + across * Math.cos(angle), y + down * Math.sin(angle)];
    });
  const EXAMPLES = [
    [arc(50, 50, 24, 38, -90, 270)],
    [[[36, 28], [54, 12], [54, 88]]],
    [[...arc(50, 32, 22, 20, -170, 30), [28, 86], [76, 86]]],
    [[...arc(46, 30, 22, 19, -150, 90), ...arc(46, 68, 24, 20, -90, 150)]],
    [[[58, 12], [24, 62], [78, 62]], [[60, 40], [60, 90]]],
    [[[72, 14], [36, 14], [33, 46], ...arc(48, 65, 24, 23, -130, 140)]],
    [[...arc(70, 50, 40, 42, -110, -180), ...arc(50, 68, 20, 22, 180, -190)]],
    [[[28, 14], [72, 14], ...arc(120, 75, 72, 65, -130, -190)], [[36, 50], [74, 48]]],
    [[...arc(50, 30, 19, 18, 90, 450), ...arc(50, 68, 22, 20, -90, 270)]],
    [[...arc(48, 34, 20, 20, 0, 360), [68, 34], [64, 60], [54, 88]]],
  ];

  const element = (id) => document.getElementById(id);

  // Why there is no answer: one sentence, what to do, and the code of whoever refused.
  class Refused extends Error {
    constructor(words, { next = "", code = "" } = {}) {
      super(words);
      Object.assign(this, { next, code });
    }
  }

  class Drawing {
    constructor(canvas, changed) {
      this.canvas = canvas;
      this.pen = canvas.getContext("2d", { willReadFrequently: true });
      this.changed = changed;
      this.last = null;
      Object.assign(this.pen, { lineWidth: canvas.width * PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#000" });
      canvas.addEventListener("pointerdown", (event) => this.begin(event));
      canvas.addEventListener("pointermove", (event) => this.move(event));
      for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.end());
      this.clear();
    }

    clear() {
      this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
      this.say("nothing yet");
    }

    say(what) {
      this.canvas.setAttribute("aria-label", `Your drawing: ${what}`);
      this.changed();
    }

    place(event) {
      const box = this.canvas.getBoundingClientRect();
      const scale = this.canvas.width / box.width;
      return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    }

    begin(event) {
      event.preventDefault();
      this.canvas.setPointerCapture(event.pointerId);
      this.last = this.place(event);
      this.line([this.last, this.last]);
    }

    move(event) {
      if (!this.last) return;
      // A quick hand moves several times between two events.
      for (const one of event.getCoalescedEvents?.() ?? [event]) {
        const to = this.place(one);
        this.line([this.last, to]);
        this.last = to;
      }
    }

    end() {
      if (!this.last) return;
      this.last = null;
      this.say("a digit");
    }

    line(points) {
      this.pen.beginPath();
      points.forEach(([x, y], index) => (index ? this.pen.lineTo(x, y) : this.pen.moveTo(x, y)));
      this.pen.stroke();
    }

    example(digit) {
      this.clear();
      const scale = this.canvas.width / 100;
      for (const points of EXAMPLES[digit]) this.line(points.map(([x, y]) => [x * scale, y * scale]));
      this.say(`an example of a ${digit}`);
    }

    // How much ink is in each of 8 by 8 squares, 0 to 16; null where nothing is drawn. As in the data set of the
    // example, the digit fills the square: it is cut out, and put in the middle.
    pixels() {
      const { width, height } = this.canvas;
      const { data } = this.pen.getImageData(0, 0, width, height);
      const ink = (x, y) => (x >= 0 && x < width && y >= 0 && y < height ? data[(y * width + x) * 4 + 3] / 255 : 0);
      let [left, right, top, bottom] = [width, -1, height, -1];
      for (let y = 0; y < height; y += 1) {
        for (let x = 0; x < width; x += 1) {
          if (ink(x, y) < 0.5) continue;
          [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
        }
      }
      if (right < 0) return null;
      const side = Math.max(right - left, bottom - top) + 1;
      const [startX, startY] = [(left + right + 1 - side) / 2, (top + bottom + 1 - side) / 2];
      const fine = 16;
      const step = side / (SIDE * fine);
      const sums = new Array(SIDE * SIDE).fill(0);
      for (let row = 0; row < SIDE * fine; row += 1) {
        for (let column = 0; column < SIDE * fine; column += 1) {
          const value = ink(Math.floor(startX + (column + 0.5) * step), Math.floor(startY + (row + 0.5) * step));
          sums[Math.floor(row / fine) * SIDE + Math.floor(column / fine)] += value;
        }
      }
      return sums.map((sum) => Math.round((sum / fine ** 2) * INK * 100) / 100);
    }
  }

  // What the visitor's own proxy, and behind it the enclave, are asked.
  class Proxy {
    constructor({ port, token, key, origin }) {
      if (!/^[0-9]{1,5}$/.test(port) || Number(port) < 1 || Number(port) > MAX_PORT) {
        throw new Refused("The port of your proxy is a number from 1 to 65535.");
      }
      this.url = `http://127.0.0.1:${Number(port)}`;
      this.origin = origin;
      this.headers = {
        ...(token ? { "BlindAI-Proxy-Token": token } : {}),
        ...(key ? { Authorization: `Bearer ${key}` } : {}),
      };
    }

    async ask(path, body) {
      let answer;
      try {
        answer = await fetch(this.url + path, {
          method: body ? "POST" : "GET",
          headers: { ...this.headers, ...(body ? { "Content-Type": "application/json" } : {}) },
          body: body && JSON.stringify(body),
          cache: "no-store",
          credentials: "omit",
          redirect: "error",
          referrerPolicy: "no-referrer",
          signal: AbortSignal.timeout(PATIENCE_MS),
        });
      } catch (error) {
        if (error.name === "TimeoutError") throw new Refused("Your proxy did not answer in time.");
        throw await this.unreachable();
      }
      this.platform = answer.headers.get("BlindAI-Platform");
      const told = await answer.json().catch(() => ({}));
      if (!answer.ok) throw this.refused(answer.status, told);
      return told;
    }

    // The browser does not say why it got no answer: whether somebody is there at all, a request tells that any page
    // may send, and whose answer none may read.
    async unreachable() {
      try {
        await fetch(this.url, { method: "HEAD", mode: "no-cors", credentials: "omit", signal: AbortSignal.timeout(PATIENCE_MS) });
      } catch {
        return new Refused(`No proxy answers at ${this.url}.`, {
          next: "Start it as shown under \"Your proxy\". If it runs, the browser keeps this page from it: allow the page to use your local network where the browser asks, and do not use Safari, which lets no page by HTTPS talk to programs on your machine.",
        });
      }
      return new Refused(`The proxy at ${this.url} does not let this page use it.`, {
        next: `Start it with --allow-origin ${this.origin}`,
        code: "proxy.origin",
      });
    }

    refused(status, { error = "", code = "", hint = "", step = "" }) {
      const words = typeof error === "string" ? error : "";
      if (code === "proxy.token") {
        return new Refused("The token is not the one of your proxy.", { next: "Copy the token that `blindai proxy` printed when it began.", code });
      }
      if (code === "model.not_found") {
        return new Refused("The enclave has no such model, or your key may not see it.", { next: "Upload it, or give the API key of its account.", code });
      }
      if (code.startsWith("authentication.")) {
        return new Refused(`The enclave does not take the API key: ${words}.`, { next: "Give a key that is in force, or none for a public model.", code });
      }
      const who = status === 502 && step ? "Your proxy refused the enclave, and nothing was sent to it" : "It was refused";
      return new Refused(`${who}: ${words || `status ${status}`}.`, { next: hint, code });
    }
  }

  const told = (one) => `${one.name} ${one.datatype} [${one.shape.map((size) => (size < 0 ? "any" : size)).join(", ")}]`;

  // What to send to a model that the enclave describes like this.
  function request(model, pixels) {
    const [input] = model.inputs;
    const batch = input?.shape[0] === -1 || input?.shape[0] === 1;
    if (model.inputs.length !== 1 || input.datatype !== "FP32" || !batch || !SHAPES.includes(input.shape.slice(1).join())) {
      throw new Refused(`The model takes another input than a drawing: ${model.inputs.map(told).join(", ")}.`, {
        next: "A drawing is one input FP32 [any, 64], [any, 8, 8] or [any, 1, 8, 8].",
      });
    }
    const output = model.outputs.find((one) => one.datatype === "FP32" && one.shape.length === 2 && one.shape[1] === DIGITS);
    if (!output) {
      throw new Refused(`The model gives something else than a score for each digit: ${model.outputs.map(told).join(", ")}.`, {
        next: "Scores are an output FP32 [any, 10].",
      });
    }
    return {
      inputs: [{ name: input.name, datatype: "FP32", shape: [1, ...input.shape.slice(1)], data: pixels }],
      outputs: [{ name: output.name }],
    };
  }

  // Scores that add up to 1, whatever the model calls likely.
  function shares(scores) {
    const sum = scores.reduce((so_far, one) => so_far + one, 0);
    if (scores.every((one) => one >= 0) && Math.abs(sum - 1) < 0.01) return scores;
    const largest = Math.max(...scores);
    const powers = scores.map((one) => Math.exp(one - largest));
    const all = powers.reduce((so_far, one) => so_far + one, 0);
    return powers.map((one) => one / all);
  }

  function show(scores) {
    const best = scores.indexOf(Math.max(...scores));
    [...element("scores").children].forEach((row, digit) => {
      row.classList.toggle("best", digit === best && scores[digit] > 0);
      row.querySelector("progress").value = scores[digit];
      row.querySelector(".score").textContent = scores[digit] > 0 ? scores[digit].toFixed(3) : "-";
    });
    return best;
  }

  function preview(pixels) {
    const pen = element("pixels").getContext("2d");
    const image = pen.createImageData(SIDE, SIDE);
    (pixels ?? new Array(SIDE * SIDE).fill(0)).forEach((value, index) => {
      image.data.set([0, 0, 0, (value / INK) * 255], index * 4);
    });
    pen.putImageData(image, 0, 0);
  }

  function explain(error) {
    const why = element("why");
    why.replaceChildren();
    why.hidden = !error;
    if (!error) return;
    const strong = document.createElement("strong");
    strong.textContent = error.message;
    why.append(strong);
    if (error.next) why.append(document.createElement("br"), `Next: ${error.next}`);
    if (error.code) {
      const [small, code] = [document.createElement("small"), document.createElement("code")];
      code.textContent = error.code;
      small.append(code);
      why.append(small);
    }
  }

  async function answer(drawing, origin) {
    const pixels = drawing.pixels();
    if (!pixels) throw new Refused("Nothing is drawn.", { next: "Draw a digit, or choose an example." });
    const id = element("model").value.trim();
    if (!/^[A-Za-z0-9._-]+\/[A-Za-z0-9._-]+$/.test(id)) {
      throw new Refused("There is no model to ask.", { next: "Name one, as in account/model." });
    }
    const value = (name) => element(name).value.trim();
    const proxy = new Proxy({ port: value("port"), token: value("token"), key: value("api-key"), origin });
    const path = `/v2/models/${id}`;
    const body = request(await proxy.ask(path), pixels);
    const begun = performance.now();
    const { outputs } = await proxy.ask(`${path}/infer`, body);
    const took = Math.round(performance.now() - begun);
    const best = show(shares(outputs[0].data));
    const where = proxy.platform === "simulated" ? "a SIMULATED enclave, which protects nothing" : "an enclave that your proxy has verified";
    return { best, words: `says ${id}, in ${where}, after ${took} ms.` };
  }

  function start() {
    const page = document.querySelector("[data-playground]");
    const [said, button] = [element("said"), element("ask")];
    page.hidden = false;
    element("no-scripts").hidden = true;
    const drawing = new Drawing(element("drawing"), () => {});
    drawing.changed = () => {
      preview(drawing.pixels());
      explain(null);
      show(new Array(DIGITS).fill(0));
      said.textContent = "Nothing was asked yet.";
    };
    element("clear").addEventListener("click", () => drawing.clear());
    for (const one of document.querySelectorAll("[data-example]")) {
      one.addEventListener("click", () => drawing.example(Number(one.dataset.example)));
    }

    async function ask() {
      if (button.getAttribute("aria-busy") === "true") return;
      button.setAttribute("aria-busy", "true");
      explain(null);
      said.textContent = "Asking...";
      try {
        const { best, words } = await answer(drawing, page.dataset.origin);
        const digit = document.createElement("strong");
        digit.textContent = String(best);
        said.replaceChildren(digit, ` ${words}`);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        said.textContent = "There is no answer.";
        show(new Array(DIGITS).fill(0));
        element("proxy").open = true;
        explain(error);
      } finally {
        button.removeAttribute("aria-busy");
      }
    }
    button.addEventListener("click", ask);
    for (const id of ["model", "port", "token", "api-key"]) {
      element(id).addEventListener("keydown", (event) => {
        if (event.key === "Enter") ask();
      });
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
