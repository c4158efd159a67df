// The plots of usage: what was asked, what failed and what was refused for a quota, by hour and by day.
"use strict";

(() => {
  const CURVES = ["queries", "failed", "limited"];
  const charts = new Map();

  function draw(place, data, unit) {
    const colours = plots.colours();
    const series = CURVES.map((label, index) => ({
      label,
      stroke: colours[index],
      fill: index ? undefined : `${colours[0]}55`,
      width: 2,
      points: { show: true, size: 5 },
      paths: index ? uPlot.paths.linear() : uPlot.paths.bars({ size: [0.7, 40] }),
    }));
    const sums = CURVES.map((name) => `${plots.number(data[name].reduce((sum, one) => sum + one, 0))} ${name}`);
    charts.get(place)?.destroy();
    const columns = [data.times, ...CURVES.map((name) => data[name])];
    // Half a bar.
    const room = (data.times[1] - data.times[0]) / 2;
    charts.set(place, plots.draw(place, columns, series, `By ${unit}, in all: ${sums.join(", ")}`, room));
  }

  plots.keep(async () => {
    const source = document.querySelector("[data-counts]");
    if (!source) return;
    const data = await plots.load(source.dataset.counts);
    if (!data) return;
    draw(document.getElementById("hours-plot"), data.hours, "hour");
    draw(document.getElementById("days-plot"), data.days, "day");
  });
})();
