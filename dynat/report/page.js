// Sorting and filtering of the tables. Without this script the page shows the same rows in the order of the preset.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const rows = [...table.querySelectorAll("tbody tr[data-run]")];
  const home = new Map(rows.map((row) => [row, row.parentNode]));
  const groups = [...table.tBodies];
  const sorted = table.appendChild(document.createElement("tbody"));
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const cell = (row, column) =>
    column === 0 ? row.dataset.run : row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  // A column of numbers is sorted by number, with what has none below; any other by its text.
  const keys = (column) => {
    const texts = rows.map((row) => cell(row, column)).map((text) => (text === "–" ? "-Infinity" : text));
    const numeric = texts.every((text) => !Number.isNaN(Number(text)));
    return new Map(rows.map((row, place) => [row, numeric ? Number(texts[place]) : texts[place]]));
  };
  const compare = (first, second) => (first < second ? -1 : first > second ? 1 : 0);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column; once more to reverse, a third time for the first order";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const key = keys(column);
      const order = ["ascending", "descending"];
      if (typeof key.get(rows[0]) === "number") order.reverse();
      const next = order[order.indexOf(head.getAttribute("aria-sort")) + 1];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) {
        const sign = next === "ascending" ? 1 : -1;
        head.setAttribute("aria-sort", next);
        sorted.append(...[...rows].sort((a, b) => sign * compare(key.get(a), key.get(b))));
      } else {
        rows.forEach((row) => home.get(row).append(row));
      }
      groups.forEach((group) => group.classList.toggle("empty", Boolean(next)));
    });
  });
}
const filter = document.querySelector(".filter");
const shown = document.querySelectorAll("[data-run]");
const main = [...document.querySelectorAll(".accuracy tr[data-run]")];
const members = new Map(
  [...document.querySelectorAll(".accuracy .group")].map((group) => [
    group,
    [...group.parentNode.querySelectorAll("[data-run]")],
  ]),
);
if (main.length > 8) {
  filter.hidden = false;
  filter.querySelector("input").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    const kept = main.filter((row) => words.every((word) => row.dataset.words.toLowerCase().includes(word)));
    const names = new Set(kept.map((row) => row.dataset.run));
    shown.forEach((element) => { element.hidden = !names.has(element.dataset.run); });
    members.forEach((rows, group) => { group.hidden = rows.every((row) => row.hidden); });
    filter.querySelector("output").textContent = kept.length < main.length ? `${kept.length} of ${main.length} runs` : "";
  });
}
// A link to a folded part opens it, and a link to a run its settings.
const reveal = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target) target.scrollIntoView();
};
window.addEventListener("hashchange", reveal);
reveal();
