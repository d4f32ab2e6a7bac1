// Entities, marked in the text and listed in a table. The service counts code points, of which a string's characters are sometimes half.

const output = {
  show({ entities }, sent) {
    const points = Array.from(JSON.parse(sent).text), parts = [];
    let end = 0;
    for (const entity of entities) {
      const mark = document.createElement("mark"), kind = document.createElement("span");
      kind.className = "kind";
      kind.textContent = " " + entity.label;
      mark.append(points.slice(entity.start, entity.end).join(""), kind);
      parts.push(points.slice(end, entity.start).join(""), mark);
      end = entity.end;
    }
    byId("marked").replaceChildren(...parts, points.slice(end).join(""));
    byId("labels").replaceChildren(...entities.map((entity) => scoreRow(entity.text + " (" + entity.label + ")", entity.score)));
  },
  told: ({ entities }) => (entities.length === 1 ? "1 entity" : (entities.length || "No") + " entities"),
};

