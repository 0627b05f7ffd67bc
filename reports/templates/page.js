
"use strict";
// Tables sort, examples filter. Without this the page says the same, in the order it was written.
(() => {
  const PAGE = 24;
  const collator = new Intl.Collator("en", { numeric: true });

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heading.textContent;
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        const first = heading.classList.contains("number") ? "descending" : "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        const direction = heading.getAttribute("aria-sort") === first ? other : first;
        headings.forEach((each) => each.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", direction);
        const sign = direction === "ascending" ? 1 : -1;
        const rows = [...body.rows];
        rows.sort((a, b) => sign * compare(a.cells[column], b.cells[column]));
        body.append(...rows);
      });
    });
  }

  function compare(a, b) {
    const x = a.dataset.order, y = b.dataset.order;
    if (x !== undefined && y !== undefined) return Number(x) - Number(y);
    if ((x === undefined) !== (y === undefined)) return x === undefined ? -1 : 1;
    return collator.compare(a.textContent, b.textContent);
  }

  const form = document.querySelector(".filters");
  if (!form) return;
  const cards = [...document.querySelectorAll(".card")];
  const texts = cards.map((card) => card.textContent.toLowerCase());
  const more = document.querySelector(".more");
  const count = form.querySelector(".count");
  const field = (name) => form.elements[name] ? form.elements[name].value : "";
  let shown = PAGE;

  function matches(card, text) {
    const words = field("text").trim().toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.every((word) => text.includes(word))) return false;
    if (field("group") && card.dataset.group !== field("group")) return false;
    if (field("bucket") && !card.dataset.buckets.split(" ").includes(field("bucket"))) return false;
    const value = Number(card.getAttribute("data-" + field("measure")));
    if (field("low") !== "" && value < Number(field("low"))) return false;
    return !(field("high") !== "" && value > Number(field("high")));
  }

  function filter() {
    const found = cards.filter((card, index) => matches(card, texts[index]));
    const visible = new Set(found.slice(0, shown));
    for (const card of cards) card.hidden = !visible.has(card);
    more.hidden = found.length <= shown;
    count.textContent = `${found.length} of ${cards.length} photographs match` + (more.hidden ? "." : `; the first ${shown} are shown.`);
  }

  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { shown = PAGE; filter(); });
  form.addEventListener("reset", () => { shown = PAGE; setTimeout(filter); });
  more.querySelector("button").addEventListener("click", () => {
    const next = shown;
    shown += PAGE;
    filter();
    const found = cards.filter((card) => !card.hidden);
    if (found[next]) found[next].focus();
  });
  function reveal() {
    const card = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!card || !card.classList.contains("card") || !card.hidden) return;
    form.reset();
    shown = Math.max(PAGE, cards.indexOf(card) + 1);
    filter();
    card.scrollIntoView();
  }
  window.addEventListener("hashchange", reveal);
  filter();
  document.documentElement.classList.remove("waiting");
  reveal();
})();
