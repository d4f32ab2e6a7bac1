"use strict";
// A text, sent as JSON.

const byId = (id) => document.getElementById(id);
const text = byId("text");

const input = {
  missing: () => (text.value.trim() ? "" : "Write a text first."),
  focus: () => text.focus(),
  request: () => ({ body: JSON.stringify({ text: text.value }), kind: { "Content-Type": "application/json" } }),
  part: () => "-H 'Content-Type: application/json' -d " + shellQuoted(JSON.stringify({ text: text.value })),
  listen(predict) {
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) predict();
    });
  },
};

