"use strict";
(() => {
  // With an arm under the pointer, or tapped, its marks stand out in every table and figure.
  const look = (name) => {
    document.body.classList.toggle("looking", name !== null);
    for (const mark of document.querySelectorAll(".mark")) mark.classList.toggle("looked", mark.dataset.arm === name);
  };
  if (new Set([...document.querySelectorAll(".mark")].map((mark) => mark.dataset.arm)).size > 1) {
    document.addEventListener("pointerover", (event) => look(event.target.closest(".mark")?.dataset.arm ?? null));
    document.documentElement.addEventListener("pointerleave", () => look(null));
  }

  // A click on a column's head sorts the arms by it, a second one the other way round; what has no number comes last.
  for (const head of document.querySelectorAll(".sortable [data-sort]")) {
    head.tabIndex = 0;
    const sort = () => {
      const table = head.closest("table");
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (body) => {
        if (head.dataset.sort === "name") return body.dataset.arm;
        if (head.dataset.sort === "text") return body.rows[0].cells[head.cellIndex].textContent.trim();
        return Number(body.dataset.order.split(" ")[Number(head.dataset.sort)]);
      };
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (typeof x === "string") return x.localeCompare(y, undefined, { numeric: true }) * (down ? -1 : 1);
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return (x - y) * (down ? -1 : 1);
      };
      table.append(...[...table.tBodies].sort(compare));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  }

  // A table that is wider than its place is set in smaller type; if it is still wider, it becomes cards, one a row.
  const fit = () => {
    for (const table of document.querySelectorAll("table.arms, table.plain:not(.keep)")) {
      table.classList.remove("dense", "cards");
      for (const style of ["dense", "cards"]) {
        if (table.scrollWidth <= table.parentElement.clientWidth) break;
        table.classList.remove("dense");
        table.classList.add(style);
      }
    }
  };
  fit();
  addEventListener("resize", fit);

  // On paper nothing can be unfolded.
  addEventListener("beforeprint", () => { for (const details of document.querySelectorAll("details")) details.open = true; });
  document.documentElement.dataset.ready = "yes";
})();
