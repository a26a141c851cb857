// Tables: built from rows of cells, scrolling by themselves where they are too wide, and as CSV.

// A table in a box that scrolls, and says so where it is wider than its box; `label` names it for those who do not see it.
function scrolling(table, label) {
  const hint = el("p", {class: "hint", hidden: true, "aria-hidden": "true"}, "More columns: scroll the table →");
  const box = el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": label}, hint, table);
  new ResizeObserver(() => { hint.hidden = table.offsetWidth <= box.clientWidth + 1; }).observe(box);
  return box;
}

// A plain table of records: columns [{key, label, text?: record => string, words?: true}].
function recordTable(records, columns, label) {
  const head = el("tr", {}, columns.map((c) => el("th", {scope: "col", class: c.words ? "words" : null}, c.label ?? capital(words(c.key)))));
  const body = records.map((record) => el("tr", {}, columns.map((c) => {
    const content = c.text ? c.text(record) : cellText(record[c.key]);
    return el("td", {class: c.words ? "words" : null}, content);
  })));
  return scrolling(el("table", {class: "scores"}, el("thead", {}, head), el("tbody", {}, body)), label);
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function cellText(value) {
  if (value === null || value === undefined) return "–";
  if (!isNumber(value)) return String(value);
  return Number.isInteger(value) ? count(value) : number(value, 3);
}

// Records as CSV after RFC 4180. A text that a spreadsheet would take for a formula gets an apostrophe before it.
function csvText(records, columns) {
  const field = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(value);
    const text = String(value);
    const harmless = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
  };
  const lines = [columns.map((c) => field(c.key)), ...records.map((record) => columns.map((c) => field(record[c.key])))];
  return lines.map((line) => `${line.join(",")}\r\n`).join("");
}

// Hands a file to the reader.
function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], {type}));
  const link = el("a", {href: url, download: name});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
