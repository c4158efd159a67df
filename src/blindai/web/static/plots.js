// What the plots of all our web programs share: colours, axes, and when they are drawn.
"use strict";

const plots = (() => {
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
  // Nothing is counted in parts: 1, 2, 5, 10, 20 ... between two lines.
  const WHOLE = [...Array(16).keys()].flatMap((power) => [1, 2, 5].map((one) => one * 10 ** power));

  const number = (value) => (value == null ? "" : Math.round(value).toLocaleString("en-US"));

  // The data that the server has at `address`; null where there is none, which the page says elsewhere.
  async function load(address) {
    try {
      const answer = await fetch(address, { headers: { "HX-Request": "true" } });
      return answer.ok ? await answer.json() : null;
    } catch {
      return null; // The line is cut.
    }
  }

  // Draw `columns` (uPlot: the times, then each series) into `place`, and say in `words` what is seen there. `room` is
  // left before the first moment and after the last, in seconds.
  function draw(place, columns, series, words, room = 0) {
    const style = getComputedStyle(place);
    const stroke = style.getPropertyValue("--pico-color").trim();
    const quiet = { stroke: style.getPropertyValue("--pico-muted-border-color").trim(), width: 1 };
    const axis = { stroke, grid: quiet, ticks: quiet };
    place.replaceChildren();
    const chart = new uPlot(
      {
        width: Math.max(place.clientWidth, 200),
        height: place.clientWidth < 500 ? 240 : 300,
        scales: {
          x: { range: (_, first, last) => [first - room, last + room] },
          y: { range: (_, low, high) => [0, Math.max(high, 1) * 1.06] },
        },
        axes: [
          { ...axis, space: 80, values: TICKS },
          { ...axis, size: 64, incrs: WHOLE, values: (_, ticks) => ticks.map(number) },
        ],
        series: [
          { label: "UTC", value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" },
          ...series.map((one) => ({ ...one, value: (_, value) => number(value) })),
        ],
        tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
        cursor: { y: false },
        // The latest values, until the reader points somewhere else.
        hooks: { ready: [(made) => made.setLegend({ idx: columns[0].length - 1 })] },
      },
      columns,
      place,
    );
    const canvas = place.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", words);
    place.dataset.points = String(columns[0].length);
    return chart;
  }

  // Call `redraw` now, and whenever the theme or the width of the window is another one.
  function keep(redraw) {
    function start() {
      redraw();
      dark.addEventListener("change", redraw);
      let width = innerWidth;
      addEventListener("resize", () => {
        if (innerWidth === width) return;
        width = innerWidth;
        redraw();
      });
    }
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
    else start();
  }

  return { draw, keep, load, number, dark, colours: () => (dark.matches ? COLOURS.dark : COLOURS.light) };
})();
