// Labels with scores, in a table.

const topK = byId("top");

const output = {
  ask: (url) => url.searchParams.set("top_k", topK.value),
  show: (prediction) => byId("labels").replaceChildren(...prediction.labels.map((item) => scoreRow(item.label, item.score))),
  told: ({ labels }) => labels[0].label + ", " + (100 * labels[0].score).toFixed(2) + " %",
};

