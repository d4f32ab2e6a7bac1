"use strict";
// Two texts, sent as JSON.

const byId = (id) => document.getElementById(id);
const texts = [byId("text"), byId("second")];
const body = () => JSON.stringify({ pair: texts.map((text) => text.value) });
const empty = () => texts.find((text) => !text.value.trim());

const input = {
  missing: () => (empty() ? "Write both texts first." : ""),
  focus: () => (empty() ?? texts[0]).focus(),
  request: () => ({ body: body(), kind: { "Content-Type": "application/json" } }),
  part: () => "-H 'Content-Type: application/json' -d " + shellQuoted(body()),
  listen(predict) {
    for (const text of texts) {
      text.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) predict();
      });
    }
  },
  show(prediction) {
    const score = byId("relevance");
    score.hidden = byId("relevance-name").hidden = prediction.score === undefined;
    score.textContent = prediction.score === undefined ? "" : prediction.score.toFixed(4);
  },
};

