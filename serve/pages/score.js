// One number, which pair.js writes beside the time and the model.

const output = {
  show() {},
  told: ({ score }) => "Score " + score.toFixed(4),
};

