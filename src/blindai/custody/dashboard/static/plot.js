// The plot of consumption: one curve for each consumer, their sum, and the budget as a line.
"use strict";

(() => {
  let chart = null;

  async function draw() {
    const place = document.querySelector("[data-usage]");
    if (!place) return;
    const data = await plots.load(place.dataset.usage);
    if (!data) return;
    const rows = data.series.map((one) => one.values);
    const names = data.series.map((one) => one.name);
    if (names.length > 1) {
      rows.push(data.total);
      names.push("all together");
    }
    const colours = plots.colours();
    const series = names.map((label, index) => ({
      label,
      stroke: colours[index % colours.length],
      width: 2,
      points: { show: data.times.length < 30 },
      paths: uPlot.paths.stepped({ align: 1 }),
    }));
    series.push({
      label: "budget",
      stroke: plots.dark.matches ? "#ff8a80" : "#b3261e",
      width: 2,
      dash: [8, 5],
      points: { show: false },
    });
    const { number } = plots;
    const words = `Units spent over time: ${number(data.total.at(-1))} of ${number(data.budget)} ${data.unit}`;
    chart?.destroy();
    chart = plots.draw(place, [data.times, ...rows, data.times.map(() => data.budget)], series, words);
  }

  plots.keep(draw);
  document.body.addEventListener("changed", draw);
})();
