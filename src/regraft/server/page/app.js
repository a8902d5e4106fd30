"use strict";
// The page at /: sends images to /predict and /explain and shows the answers. Texts from images, runs and
// files are only ever set as text, never as HTML.

const MOST_BARS = 5;
const AT_A_TIME = 2; // images on their way
const FOR = [[120, 20, 60], [214, 60, 30], [250, 150, 30], [255, 236, 130]]; // colours of heat, rising
const AGAINST = [[20, 30, 110], [30, 90, 200], [60, 170, 235], [180, 240, 255]];

const byId = (id) => document.getElementById(id);
let token = "";
let models = [];
let waiting = [];
let underWay = 0;
let answered = 0;

function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, options);
  element.append(...children);
  return element;
}

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok) return response.json();
  let text = `The server answered ${response.status}.`;
  try {
    const { error } = await response.json();
    text = describeRefusal(error.code, error.message);
  } catch { /* not from this server */ }
  if (response.status === 401) showTokenForm();
  const problem = new Error(text);
  problem.status = response.status;
  throw problem;
}

function describeRefusal(code, detail) {
  const words = code.replaceAll("_", " ");
  return detail ? `Refused: ${words} (${detail})` : `Refused: ${words}`;
}

// --- the models

function showTokenForm() {
  byId("token-problem").textContent = token ? "The server does not accept this token." : "";
  byId("token-form").hidden = false;
  byId("token").focus();
}

async function loadModels() {
  try {
    models = await ask("/models");
  } catch (problem) {
    byId("about").textContent = problem.message;
    return;
  }
  if (!models.length) {
    byId("about").textContent = "The model is being loaded.";
    setTimeout(loadModels, 1000);
    return;
  }
  byId("token-form").hidden = true;
  byId("model").replaceChildren(...models.map((m) => make("option", { value: m.model, textContent: m.model })));
  byId("model-choice").hidden = models.length < 2;
  showModel();
}

const getModel = () => models.find((m) => m.model === byId("model").value) || models[0];

function showModel() {
  const model = getModel();
  const count = model.outputs.length;
  const kind = { regression: "numbers", multilabel: "labels" }[model.task] || "classes";
  const images = model.images_per_sample > 1 ? `, ${model.images_per_sample} images for each answer` : "";
  byId("title").textContent = `Try ${model.model}`;
  byId("about").textContent = `${count} ${kind}: ${model.outputs.slice(0, 12).join(", ")}${count > 12 ? " …" : ""}${images}. Version ${model.version}.`;
}

// --- sending images

function addFiles(list) {
  const files = [...list];
  const size = models.length ? getModel().images_per_sample : 1;
  for (let start = 0; start < files.length; start += size) {
    const group = files.slice(start, start + size);
    const card = makeCard(group);
    byId("answers").prepend(card.element);
    waiting.push(card);
  }
  sendNext();
}

async function sendNext() {
  showStatus();
  while (underWay < AT_A_TIME && waiting.length) {
    const card = waiting.shift();
    underWay += 1;
    send(card).finally(() => { underWay -= 1; answered += 1; sendNext(); });
  }
}

function showStatus() {
  const left = underWay + waiting.length;
  byId("status").textContent = left ? `Waiting for ${left} ${left === 1 ? "answer" : "answers"}.` : answered ? `${answered} answered.` : "";
}

function makeQuery() {
  const query = new URLSearchParams({ coverage: byId("coverage").value });
  if (models.length > 1) query.set("model", byId("model").value);
  return query;
}

function makeForm(files) {
  const form = new FormData();
  for (const file of files) form.append("image", file, file.name || "pasted image");
  return form;
}

async function send(card) {
  try {
    const answer = await ask(`/predict?${card.query}`, { method: "POST", body: makeForm(card.files) });
    showAnswer(card, answer);
  } catch (problem) {
    card.body.replaceChildren(make("p", { className: "problem", textContent: problem.message }), makeRetry(card, problem));
  }
}

function makeRetry(card, problem) {
  const isWorth = !problem.status || problem.status === 401 || problem.status >= 500;
  if (!isWorth) return "";
  const button = make("button", { type: "button", className: "second", textContent: "Try again" });
  button.addEventListener("click", () => { button.disabled = true; waiting.push(card); sendNext(); });
  return button;
}

// --- a card

function makeCard(files) {
  const pictures = make("div", { className: "pictures" });
  const images = files.map((file) => {
    const image = make("img", { alt: `The image ${file.name || "that was pasted"}`, src: URL.createObjectURL(file) });
    const picture = make("div", { className: "picture" }, image);
    image.addEventListener("error", () => {
      picture.replaceChildren(make("p", { className: "quiet small", textContent: "This browser cannot show the image." }));
    });
    pictures.append(picture);
    return { image, picture };
  });
  const name = files.map((file) => file.name || "pasted image").join(", ");
  const body = make("div", {}, make("p", { className: "quiet", textContent: "Waiting." }));
  const text = make("div", {}, make("p", { className: "name", textContent: name }), body);
  const element = make("article", { className: "card" }, pictures, text);
  element.setAttribute("aria-label", name);
  return { files, images, body, element, query: makeQuery() };
}

// A share just below 1 is not rounded to 100 %.
const percent = (share) => `${(100 * (share < 1 ? Math.min(share, 0.999) : share)).toFixed(share > 0.0995 && share < 0.995 ? 0 : 1)} %`;
const number = (value) => Number(value.toPrecision(4)).toString();

function showAnswer(card, answer) {
  const parts = [make("h2", { textContent: makeHeadline(answer) })];
  if (!answer.known) {
    parts.push(make("p", { className: "warning", textContent: "This is not like anything the model knows. Do not trust the answer." }));
  }
  const set = describeSet(card, answer);
  if (set) parts.push(make("p", { textContent: set }));
  parts.push(answer.task === "regression" ? makeNumbers(answer) : makeBars(answer));
  if (answer.familiarity !== null) {
    const share = answer.familiarity < 0.001 ? "below 0.1 %" : percent(answer.familiarity);
    parts.push(make("p", { className: "quiet small", textContent: `Familiarity ${share}: the share of images like those of training that look as strange as this one.` }));
  }
  card.body.replaceChildren(...parts);
  if (card.files.length === 1) card.body.append(makeExplainButton(card));
}

function makeHeadline(answer) {
  if (answer.task === "regression") {
    return Object.entries(answer.values).map(([name, value]) => `${name}: ${number(value)}`).join(", ");
  }
  return answer.label || "None of the labels";
}

function describeSet(card, answer) {
  const level = `${(100 * Number(card.query.get("coverage"))).toFixed(0)} %`;
  if (answer.task === "multilabel" || answer.set.length < 2) return "";
  const shown = answer.set.slice(0, 8);
  const rest = answer.set.length - shown.length;
  return `Undecided: one of ${shown.join(", ")}${rest > 0 ? ` and ${rest} more` : ""}, at ${level}.`;
}

function makeBars(answer) {
  const ranked = Object.entries(answer.values).sort((a, b) => b[1] - a[1]);
  const shown = ranked.slice(0, Math.max(MOST_BARS, answer.labels.length));
  return make("ul", { className: "bars" }, ...shown.map(([name, share]) => {
    const fill = make("div", { className: "fill" });
    fill.style.width = `${Math.max(0.5, 100 * share)}%`;
    const track = make("div", { className: "track" }, fill);
    track.setAttribute("aria-hidden", "true");
    const words = make("div", { className: "words" }, make("span", { textContent: name }), make("span", { className: "number", textContent: percent(share) }));
    return make("li", {}, words, track);
  }));
}

function makeNumbers(answer) {
  return make("ul", { className: "bars" }, ...Object.entries(answer.values).map(([name, value]) => {
    const ends = answer.interval[name];
    const isKnown = ends && ends[0] !== null && ends[1] !== null;
    const text = isKnown ? `${number(value)} (${number(ends[0])} to ${number(ends[1])})` : number(value);
    return make("li", {}, make("div", { className: "words" }, make("span", { textContent: name }), make("span", { className: "number", textContent: text })));
  }));
}

// --- explanations

function makeExplainButton(card) {
  const button = make("button", { type: "button", className: "second", textContent: "Why?" });
  button.setAttribute("aria-label", `Why? Explain the answer for ${card.files[0].name || "the pasted image"}`);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const answer = await ask(`/explain?${card.query}`, { method: "POST", body: makeForm(card.files) });
      button.replaceWith(...showExplanation(card, answer));
    } catch (problem) {
      button.replaceWith(make("p", { className: "problem", textContent: problem.message }));
    }
  });
  return button;
}

function showExplanation(card, answer) {
  const choice = make("select", {}, ...answer.maps.map((map, row) => make("option", { value: row, textContent: describeMap(map) })), make("option", { value: "", textContent: "no heat" }));
  const label = make("label", {}, "Heat shows ", choice);
  const { picture } = card.images[0];
  const canvas = make("canvas", { width: 448, height: 448 });
  canvas.setAttribute("role", "img");
  picture.append(canvas);
  const show = () => {
    const map = answer.maps[choice.value];
    canvas.setAttribute("aria-label", map ? `Heat map: ${describeMap(map)}` : "No heat map");
    paint(canvas, map);
  };
  choice.addEventListener("change", show);
  show();
  const parts = [label];
  if (answer.nearest.length) {
    parts.push(make("h3", { textContent: "Nearest training images" }));
    parts.push(make("ul", { className: "nearest" }, ...answer.nearest.map(makeNeighbour)));
  }
  return parts;
}

function describeMap(map) {
  return map.rival ? `${map.subject} rather than ${map.rival}` : `what speaks for ${map.subject}`;
}

function makeNeighbour(image) {
  const item = make("li");
  if (image.thumbnail) item.append(make("img", { src: `data:image/jpeg;base64,${image.thumbnail}`, alt: "" }));
  item.append(make("div", { className: "label", textContent: image.label }));
  item.append(make("div", { className: "quiet", textContent: `${percent(image.similarity)} alike` }));
  if (!image.thumbnail) item.append(make("div", { className: "quiet", textContent: image.image }));
  return item;
}

function paint(canvas, map) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!map) return;
  const values = map.heat.flat();
  const strongest = Math.max(...values.map((value) => (map.is_signed ? Math.abs(value) : value)));
  if (!(strongest > 0)) return;
  const [rows, columns] = [map.heat.length, map.heat[0].length];
  const small = make("canvas", { width: columns, height: rows });
  const pixels = new ImageData(columns, rows);
  values.forEach((value, position) => {
    const level = Math.min(1, Math.abs(value) / strongest);
    const isShown = value > 0 || map.is_signed;
    const colour = pickColour(value > 0 ? FOR : AGAINST, level);
    pixels.data.set([...colour, isShown ? 200 * level ** 0.8 : 0], 4 * position);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function pickColour(colours, level) {
  const position = level * (colours.length - 1);
  const first = Math.min(Math.floor(position), colours.length - 2);
  return colours[first].map((value, channel) => value + (position - first) * (colours[first + 1][channel] - value));
}

// --- events

const drop = byId("drop");
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") addFiles(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => addFiles(event.clipboardData.files));
for (const id of ["files", "camera"]) {
  byId(id).addEventListener("change", (event) => { addFiles(event.target.files); event.target.value = ""; });
}
byId("model").addEventListener("change", showModel);
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  loadModels();
});
loadModels();
