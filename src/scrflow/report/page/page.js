"use strict";

// Draws every figure of the page from the JSON beside it. The body says how many are drawn, and how many failed.
(() => {
  const figures = [...document.querySelectorAll("figure.plot")];
  const told = { drawn: 0, failed: 0 };
  const tell = () => Object.assign(document.body.dataset, { plots: figures.length, ...told });
  const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["sendDataToCloud", "lasso2d", "select2d"] };
  const draw = async (figure) => {
    const place = figure.querySelector("div");
    try {
      const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
      await Plotly.newPlot(place, data, layout, options);
      told.drawn += 1;
    } catch (error) {
      place.textContent = `This plot could not be drawn (${error.message}).`;
      told.failed += 1;
    }
    tell();
  };
  tell();
  // one after another, and the page stays usable: a drawing in 3D can take a second
  figures.reduce((before, figure) => before.then(() => draw(figure)), Promise.resolve());
})();
