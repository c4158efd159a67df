// The plot of consumption: one curve for each consumer, their sum, and the budget as a line.
"use strict";

(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // Told apart without seeing red from green (Okabe and Ito, 2008), on light and on dark ground.
  const COLOURS = {
    light: ["#0072b2", "#a85200", "#00735a", "#9c4a7d", "#6a6200", "#3a6f9e"],
    dark: ["#5cb8ef", "#f0a54a", "#2fc39d", "#e59ac5", "#f0e442", "#9cc4e4"],
  };
  // Distance of the ticks in seconds, what is told at each, and at the first one of a new year, month, day, hour, minute.
  const TICKS = [
    [31536000, "{YYYY}", null, null, null, null, null, null, 1],
    [2419200, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
    [86400, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
    [60, "{HH}:{mm}", "\n{YYYY}-{MM}-{DD}", null, "\n{YYYY}-{MM}-{DD}", null, null, null, 1],
    [1, "{HH}:{mm}:{ss}", "\n{YYYY}-{MM}-{DD}", null, "\n{YYYY}-{MM}-{DD}", null, null, null, 1],
  ];
  let chart = null;

  const number = (value) => (value == null ? "" : Math.round(value).toLocaleString("en-US"));

  function options(place, data, names) {
    const style = getComputedStyle(place);
    const text = style.getPropertyValue("--pico-color").trim();
    const quiet = style.getPropertyValue("--pico-muted-border-color").trim();
    const colours = dark.matches ? COLOURS.dark : COLOURS.light;
    const axis = { stroke: text, grid: { stroke: quiet, width: 1 }, ticks: { stroke: quiet, width: 1 } };
    const curve = (name, index) => ({
      label: name,
      stroke: colours[index % colours.length],
      width: 2,
      points: { show: data.times.length < 30 },
      value: (_, value) => number(value),
      paths: uPlot.paths.stepped({ align: 1 }),
    });
    const budget = {
      label: "budget", stroke: dark.matches ? "#ff8a80" : "#b3261e", width: 2, dash: [8, 5],
      points: { show: false }, value: (_, value) => number(value),
    };
    return {
      width: Math.max(place.clientWidth, 200),
      height: place.clientWidth < 500 ? 240 : 300,
      scales: { y: { range: (_, low, high) => [0, Math.max(high, 1) * 1.06] } },
      axes: [
        { ...axis, space: 80, values: TICKS },
        { ...axis, size: 64, values: (_, ticks) => ticks.map(number) },
      ],
      series: [{ label: "UTC", value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" }, ...names.map(curve), budget],
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      cursor: { y: false },
      // What was spent until now, until the reader points somewhere else.
      hooks: { ready: [(made) => made.setLegend({ idx: data.times.length - 1 })] },
    };
  }

  async function draw() {
    const place = document.querySelector("[data-usage]");
    if (!place) return;
    let data;
    try {
      const answer = await fetch(place.dataset.usage, { headers: { "HX-Request": "true" } });
      if (!answer.ok) return;
      data = await answer.json();
    } catch {
      return; // The line is cut; the page says so elsewhere.
    }
    const rows = data.series.map((one) => one.values);
    const names = data.series.map((one) => one.name);
    if (names.length > 1) {
      rows.push(data.total);
      names.push("all together");
    }
    const columns = [data.times, ...rows, data.times.map(() => data.budget)];
    chart?.destroy();
    place.replaceChildren();
    chart = new uPlot(options(place, data, names), columns, place);
    const canvas = place.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Units spent over time: ${number(data.total.at(-1))} of ${number(data.budget)} ${data.unit}`);
    place.dataset.points = String(data.times.length);
  }

  function start() {
    draw();
    document.body.addEventListener("changed", draw);
    dark.addEventListener("change", draw);
    let width = innerWidth;
    addEventListener("resize", () => {
      if (innerWidth === width) return;
      width = innerWidth;
      draw();
    });
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
