// What all models share. What they read is in image.js, text.js or pair.js, one of which stands before this: `input` with `missing`, `focus`,
// `request` and `part`, `listen`, and, where there is more to show than the answer, `show`. What they answer is in labels.js, entities.js or score.js:
// `output` with `show`, `told`, and, where something is asked of it, `ask`. The input and the key stay in this page's variables and fields:
// nothing is written to any storage.

const form = byId("form"), key = byId("key");
const needsKey = document.body.dataset.auth === "on";
const address = new URL(document.body.dataset.predict, document.baseURI);
let asked = 0;

function say(text) {
  byId("status").textContent = text;
}

function showError(lines) {
  say("");
  byId("answer").hidden = true;
  byId("error").replaceChildren(...lines.filter(Boolean).map((line) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = line;
    return paragraph;
  }));
}

function shellQuoted(text) {
  return "'" + text.replaceAll("'", "'\\''") + "'";
}

function curlCommand(url) {
  const lines = ["curl", ...(needsKey ? ['-H "Authorization: Bearer $KEY"'] : []), input.part(), shellQuoted(url)];
  return lines.join(" \\\n  ");
}

function scoreRow(name, score) {
  const line = document.createElement("tr"), label = document.createElement("th"), bar = document.createElement("td"), share = document.createElement("td");
  const filled = document.createElement("div");
  label.scope = "row";
  label.textContent = name;
  filled.className = "bar";
  filled.style.width = 100 * score + "%";
  bar.setAttribute("aria-hidden", "true");
  bar.append(filled);
  share.className = "figure";
  share.textContent = (100 * score).toFixed(2) + " %";
  line.append(label, bar, share);
  return line;
}

function showAnswer(answer, milliseconds, sent) {
  const prediction = answer.predictions[0];
  byId("error").replaceChildren();
  output.show(prediction, sent);
  input.show?.(prediction);
  byId("time").textContent = milliseconds.toFixed(0) + " ms, from sending to the whole answer";
  byId("model").textContent = answer.model.name;
  byId("version").textContent = answer.model.version;
  byId("variant").textContent = answer.model.variant;
  byId("request").textContent = answer.request_id;
  byId("answer").hidden = false;
  say(output.told(prediction) + ", answered in " + milliseconds.toFixed(0) + " ms.");
}

async function refusal(response) {
  const id = response.headers.get("x-request-id");
  let fault = {};
  try {
    fault = (await response.json()).error ?? {};
  } catch {
    // Somebody between this page and the service answered, in words of their own.
  }
  return [(fault.message ?? "The service answered without saying why.") + " (" + response.status + ")", fault.hint, id && "Request id: " + id];
}

async function predict() {
  const missing = input.missing();
  if (missing) {
    showError([missing]);
    input.focus();
    return;
  }
  if (!form.reportValidity()) return;
  const url = new URL(address);
  output.ask?.(url);
  byId("curl").textContent = curlCommand(url.href);
  byId("command").hidden = false;
  if (needsKey && !key.value) {
    showError(["Enter the key, then press Predict."]);
    key.focus();
    return;
  }
  const { body, kind } = input.request();
  byId("error").replaceChildren();
  say("Asking.");
  const mine = ++asked; // of several inputs in a row the last one's answer is shown
  const started = performance.now();
  try {
    const headers = { ...kind, ...(needsKey ? { Authorization: "Bearer " + key.value.trim() } : {}) };
    const response = await fetch(url, { method: "POST", headers, body, credentials: "omit", cache: "no-store", redirect: "error" });
    if (response.ok) {
      const answer = await response.json();
      if (mine === asked) showAnswer(answer, performance.now() - started, body);
    } else {
      const lines = await refusal(response);
      if (mine === asked) showError(lines);
    }
  } catch {
    if (mine === asked) showError(["The service did not answer.", "Does it run, and does the key hold nothing but letters, digits and signs?"]);
  }
}

async function copyCommand() {
  const text = byId("curl");
  getSelection().selectAllChildren(text);
  try {
    await navigator.clipboard.writeText(text.textContent);
    say("The command was copied.");
  } catch {
    say("The command is selected: copy it from there."); // browsers give pages without TLS no clipboard
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  predict();
});
input.listen(predict);
byId("copy").addEventListener("click", copyCommand);
