"use strict";
(() => {
  const section = document.getElementById("suspicious_labels");
  const cards = [...section.querySelectorAll(".doubt")];
  const bar = section.querySelector(".review-bar");
  const names = [...section.querySelectorAll("#review-classes option")].map((option) => option.value);
  const chooser = bar.querySelector("select");
  const [progress, saved] = ["progress", "saved"].map((name) => bar.querySelector(`.${name}`));
  const key = section.dataset.key;
  let current = 0;

  // Decisions by case, as [decision, label]; a page that was closed goes on where it was.
  const name = (card) => [card.dataset.image, card.dataset.label, card.dataset.suggestion].join("\n");
  let decisions = {};
  try {
    decisions = JSON.parse(localStorage.getItem(key)) || {};
  } catch {
    saved.textContent = "This browser remembers nothing: save before you close the page.";
  }

  const remember = () => {
    try {
      localStorage.setItem(key, JSON.stringify(decisions));
    } catch {
      saved.textContent = "This browser remembers nothing: save before you close the page.";
    }
  };

  const show = () => {
    let done = 0;
    cards.forEach((card, number) => {
      const [decision, label] = decisions[name(card)] || ["", ""];
      done += decision ? 1 : 0;
      card.dataset.decision = decision;
      card.classList.toggle("current", number === current);
      card.setAttribute("aria-current", number === current ? "true" : "false");
      card.querySelector("output").textContent =
        decision === "relabel" ? `relabel: ${label}` : decision;
    });
    progress.textContent = `${done} of ${cards.length} decided`;
    const card = cards[current];
    bar.querySelector(".suggestion").textContent = card.dataset.suggestion;
    if (chooser) chooser.value = "";
  };

  const move = (step) => {
    current = Math.min(Math.max(current + step, 0), cards.length - 1);
    show();
    cards[current].scrollIntoView({ block: "center" });
    cards[current].focus({ preventScroll: true });
  };

  const decide = (decision, label = "") => {
    const card = cards[current];
    if (decision === "relabel" && !label) label = card.dataset.suggestion;
    if (decision === "relabel" && label === card.dataset.label) [decision, label] = ["keep", ""];
    decisions[name(card)] = [decision, label];
    remember();
    move(1);
  };

  const undo = () => {
    delete decisions[name(cards[current])];
    remember();
    show();
  };

  // A cell that a spreadsheet would take for a formula gets an apostrophe; `regraft check --apply` knows it.
  const cell = (text) => {
    const safe = /^[=+\-@\t\r\n]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };

  const save = () => {
    const rows = cards
      .filter((card) => decisions[name(card)])
      .map((card) => [card.dataset.image, ...decisions[name(card)]].map(cell).join(","));
    const blob = new Blob([["image,decision,label", ...rows, ""].join("\n")], { type: "text/csv" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "review.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    saved.textContent = `${rows.length} decisions saved to review.csv`;
  };

  const actions = {
    keep: () => decide("keep"), relabel: () => decide("relabel"), drop: () => decide("drop"),
    back: () => move(-1), next: () => move(1), undo, save,
  };
  const keys = {
    k: "keep", r: "relabel", d: "drop", u: "undo", s: "save",
    ArrowLeft: "back", ArrowUp: "back", ArrowRight: "next", ArrowDown: "next",
  };

  bar.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) actions[button.dataset.action]();
  });
  if (chooser) {
    names.forEach((label) => chooser.add(new Option(label, label)));
    chooser.addEventListener("change", () => chooser.value && decide("relabel", chooser.value));
  }
  cards.forEach((card, number) =>
    card.addEventListener("click", () => {
      current = number;
      show();
    }),
  );
  document.addEventListener("keydown", (event) => {
    const busy = event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|INPUT)$/.test(event.target.tagName);
    if (busy) return;
    const number = /^[0-9]$/.test(event.key) ? (Number(event.key) + 9) % 10 : -1;
    const action = keys[event.key];
    if (action) actions[action]();
    else if (chooser && number >= 0 && number < names.length) decide("relabel", names[number]);
    else return;
    event.preventDefault();
  });

  bar.hidden = false;
  section.querySelector(".review-help").hidden = false;
  const first = cards.findIndex((card) => !decisions[name(card)]);
  current = Math.max(first, 0);
  show();
})();
