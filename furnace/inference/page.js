// A click on a column's head sorts the table by it, numbers from the largest.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const numeric = head.classList.contains("number");
    const rising = head.ariaSort ? head.ariaSort === "descending" : !numeric;
    const value = row => {
      const text = row.cells[column].textContent.trim();
      return numeric ? (Number.isNaN(parseFloat(text)) ? -Infinity : parseFloat(text)) : text;
    };
    const compare = (a, b) => (value(a) > value(b) ? 1 : value(a) < value(b) ? -1 : 0);
    const order = [...body.rows].sort((a, b) => compare(a, b) * (rising ? 1 : -1));
    heads.forEach(other => { other.ariaSort = null; });
    head.ariaSort = rising ? "ascending" : "descending";
    body.append(...order);
  }));
}
