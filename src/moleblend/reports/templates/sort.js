"use strict";
/* Sorts a table by a column when its title is clicked. XML pages hold no less-than sign here. */
const valueOf = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const plain = text.replace(/,/g, "").replace("\u2212", "-");
  const number = parseFloat(plain);
  return /^[-+]?[\d.]+(e[-+]?\d+)?($|[ %(±])/i.test(plain) ? number : text;
};
const compare = (a, b) => {
  if (typeof a !== typeof b) { return typeof a === "number" ? -1 : 1; }
  return typeof a === "number" ? a - b : a.localeCompare(b);
};
document.querySelectorAll("table.sortable").forEach((table) => {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const sort = () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const body = table.tBodies[0];
      [...body.rows]
        .sort((a, b) => sign * compare(valueOf(a, column), valueOf(b, column)))
        .forEach((row) => body.append(row));
    };
    head.tabIndex = 0;
    head.title = "Sort by this column";
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") { sort(); } });
  });
});
