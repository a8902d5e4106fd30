"use strict";
// The page at /docs: a table of what openapi.json describes.

const make = (tag, text = "", ...children) => {
  const element = document.createElement(tag);
  element.textContent = text;
  element.append(...children);
  return element;
};

// A text with `code` in it.
function describeText(line) {
  const parts = line.split("`").map((part, position) => (position % 2 ? make("code", part) : part));
  return make("p", "", ...parts);
}

function describe(path, method, operation) {
  const names = (operation.parameters || []).filter((p) => p.in === "query");
  const address = make("td", "", make("code", `${method.toUpperCase()} ${path}`));
  const text = make("td", "", make("p", operation.summary || ""));
  for (const line of (operation.description || "").split("\n\n").filter(Boolean)) text.append(describeText(line));
  for (const p of names) text.append(make("p", "", make("code", p.name), ` ${p.description || ""}`));
  return make("tr", "", address, text);
}

async function show() {
  const target = document.getElementById("operations");
  const examples = document.querySelector("pre");
  examples.textContent = examples.textContent.replaceAll("ORIGIN", window.location.origin);
  const description = await (await fetch("/openapi.json")).json();
  const groups = new Map();
  for (const [path, operations] of Object.entries(description.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const tag = (operation.tags || ["other"])[0];
      groups.set(tag, [...(groups.get(tag) || []), describe(path, method, operation)]);
    }
  }
  target.replaceChildren();
  for (const [tag, rows] of groups) {
    const table = make("table", "", make("tbody", "", ...rows));
    table.className = "operations";
    target.append(make("h2", tag[0].toUpperCase() + tag.slice(1)), table);
  }
}

show().catch(() => { document.getElementById("operations").textContent = "The description cannot be loaded."; });
