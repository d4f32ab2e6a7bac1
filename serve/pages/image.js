"use strict";
// A picture that is chosen, dropped or pasted, sent as a file of a form.

const byId = (id) => document.getElementById(id);
const file = byId("file"), drop = byId("drop"), preview = byId("preview");
let picture = null;

const input = {
  missing: () => (picture ? "" : "Choose a picture first."),
  focus: () => file.focus(),
  request() {
    const body = new FormData();
    body.append("file", picture, picture.name);
    return { body, kind: {} };
  },
  part() {
    // A part's name is read by curl itself: inside its quotes a backslash and a quote are written with one more backslash.
    const path = picture.name.replaceAll("\\", "\\\\").replaceAll('"', '\\"');
    return "-F " + shellQuoted('file=@"' + path + '"');
  },
  listen(predict) {
    const take = (chosen) => {
      if (!chosen) return;
      picture = chosen;
      if (preview.src) URL.revokeObjectURL(preview.src);
      preview.src = URL.createObjectURL(chosen);
      preview.hidden = false;
      predict();
    };
    file.addEventListener("change", () => take(file.files[0]));
    document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
    document.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      drop.classList.add("over");
    });
    document.addEventListener("dragleave", () => drop.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault(); // or the browser would leave for the file
      drop.classList.remove("over");
      take(event.dataTransfer.files[0]);
    });
    preview.addEventListener("error", () => { preview.hidden = true; });
  },
};

