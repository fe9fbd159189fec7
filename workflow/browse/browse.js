// The tables of an experiment, as DataTables (datatables.net, from the package itables; page.py puts it before this
// script as `DataTable`). All values are untrusted: they become text nodes, or HTML escaped by DataTables.
const data = JSON.parse(document.getElementById("data").textContent);
const views = new Map(data.tables.map((table) => [table.key, table]));
const PREVIEW = 240; // characters of a text in a cell
const MOST_LISTED = 60; // values of a column that its filter lists
const COLORS = 8; // of clusters, in browse.css; numbers distinguish more
const escapeHtml = DataTable.util.escapeHtml;
const at = (id) => document.getElementById(id);
const count = (n) => n.toLocaleString("en");
const isText = (column) => column.kind === "text" || column.kind === "texts";
let shown = null; // the table of the view, and the DataTable that draws it

function make(tag, attributes = {}, ...children) {
  const node = attributes.svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name !== "svg" && value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// --- values ---

for (const table of views.values()) {
  table.index = new Map(table.columns.map((column, i) => [column.key, i]));
  for (const row of table.rows) {
    table.columns.forEach((column, i) => {
      if (column.kind === "text") row[i] = row[i] === null ? null : data.texts[row[i]];
      if (column.kind === "texts") row[i] = row[i].map((text) => data.texts[text]);
    });
  }
}

function asText(value, column) {
  if (value === null) return "–";
  if (column.kind === "number") {
    const tiny = value !== 0 && Math.abs(value) < 10 ** -column.digits / 2;
    const digits = { minimumFractionDigits: column.digits, maximumFractionDigits: column.digits };
    return (tiny ? value.toPrecision(3) : value.toLocaleString("en", digits)).replace("-", "−");
  }
  if (column.kind === "series") {
    return value.map((item) => asText(item, { kind: "number", digits: column.digits })).join(" · ");
  }
  return Array.isArray(value) ? value.join("\n\n") : String(value);
}

// The text that a search sees. DataTables would drop line breaks and join the words around them.
function searched(value, column) {
  return asText(value, column).replace(/\s+/g, " ");
}

function preview(value, column) {
  const text = asText(value, column);
  return escapeHtml(text.length > PREVIEW ? `${text.slice(0, PREVIEW)} …` : text);
}

function render(column) {
  return (value, type) => {
    if (type === "display") return preview(value, column);
    // Escaped here too, as DataTables decodes what it searches as HTML.
    if (type === "filter") return column.kind === "number" ? value : escapeHtml(searched(value, column));
    if (column.kind === "series") return value.reduce((last, item) => (item === null ? last : item), null);
    return Array.isArray(value) ? (value[0] ?? null) : value;
  };
}

// Sorts numbers by size and texts by letters; rows without a value come last in both directions.
const collator = new Intl.Collator("en", { numeric: true });
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b));
const missingLast = (order) => (a, b) => (a === null || b === null ? (a === null) - (b === null) : order(a, b));
DataTable.type("prefloop", { order: { asc: missingLast(compare), desc: missingLast((a, b) => compare(b, a)) } });

// --- the address: a view, and either its whole state or exact values of columns ---

function readAddress() {
  const [key, query = ""] = location.hash.slice(1).split(/\?(.*)/s);
  const table = views.get(key) || data.tables[0];
  const given = new URLSearchParams(query);
  let state = null;
  try {
    state = JSON.parse(given.get("state"));
  } catch {
    // An address that somebody changed by hand: the view is shown without a state.
  }
  const exact = [...given].filter(([name]) => table.index.has(name));
  return { table, state, exact: new Map(exact) };
}

function addressOf(table, exact, state = null) {
  const query = new URLSearchParams([...exact, ...(state ? [["state", JSON.stringify(state)]] : [])]);
  return `#${table.key}${String(query) ? `?${query}` : ""}`;
}

// --- a view ---

// A column with one value in all rows would only take space. Untrained policies have no seed, which is no second value.
function variety(table, i) {
  return new Set(table.rows.map((row) => row[i]).filter((value) => value !== null)).size;
}

// A filter that lists the values of a column. Its labels are HTML, and its values are compared with decoded text.
function listOf(table, column, i) {
  const values = [...new Set(table.rows.map((row) => row[i]))].sort(missingLast(compare));
  const options = values.map((value) => ({ label: preview(value, column), value: searched(value, column) }));
  return { extend: "searchList", options };
}

function columnOf(table, column, i) {
  const hasList = column.kind === "choice" && variety(table, i) <= MOST_LISTED;
  const search = hasList ? listOf(table, column, i) : column.kind === "number" ? "searchNumber" : "searchText";
  return {
    data: i,
    type: "prefloop",
    visible: column.shown && (column.kind !== "choice" || variety(table, i) > 1),
    className: column.kind,
    render: render(column),
    columnControl: ["order", ...(column.kind === "series" ? [] : [[search]])],
  };
}

function drawView() {
  const { table, state, exact } = readAddress();
  if (shown) shown.grid.destroy(true);
  shown = null;
  const heads = table.columns.map((column) => make("th", { scope: "col", title: column.help || null }, column.label));
  at("rows").replaceChildren(make("table", { class: "display compact" }, make("thead", {}, make("tr", {}, ...heads))));
  at("note").textContent = table.note;
  const grid = new DataTable("#rows table", {
    data: table.rows,
    columns: table.columns.map((column, i) => columnOf(table, column, i)),
    order: [],
    ordering: { indicators: false, handler: false },
    pageLength: 25,
    autoWidth: false,
    keys: true,
    stateSave: true,
    stateDuration: -1,
    stateLoadCallback: () => state,
    stateSaveCallback: (_, saved) => {
      if (shown?.ready) history.replaceState(null, "", addressOf(table, shown.exact, saved));
    },
    layout: { topStart: { buttons: [{ extend: "colvis", text: "Columns" }] } },
    language: { search: "", searchPlaceholder: "Search all columns", zeroRecords: "No row matches." },
  });
  shown = { table, grid, exact };
  for (const [name, value] of exact) {
    const i = table.index.get(name);
    grid.search.fixed(name, (_, row) => String(row[i]) === value);
  }
  grid.on("draw", drawSummary).on("key", (event, _, code, cell) => code === 13 && toggle(grid.row(cell.index().row)));
  grid.on("click", "tbody tr", (event) => {
    if (!event.target.closest(".details") && !String(getSelection())) toggle(grid.row(event.currentTarget));
  });
  grid.draw(false);
  drawTabs();
  drawFilters();
  drawMap();
  shown.ready = true; // from here on, changes are those of the reader
}

function drawTabs() {
  const tabs = data.tables.map((table) => {
    const current = table === shown.table ? "page" : null;
    return make("a", { href: `#${table.key}`, "aria-current": current }, `${table.label} `, make("small", {}, count(table.rows.length)));
  });
  at("views").replaceChildren(...tabs);
}

// Exact filters come from links and the map; a click removes one. Search, order and columns stay.
function setExact(values) {
  const exact = new Map([...shown.exact, ...Object.entries(values)].filter(([name]) => values[name] !== null));
  location.hash = addressOf(shown.table, exact, { ...shown.grid.state(), start: 0, keyTable: null });
}

function drawFilters() {
  const label = (name) => shown.table.columns[shown.table.index.get(name)].label;
  const buttons = [...shown.exact].map(([name, value]) =>
    make("button", { type: "button", click: () => setExact({ [name]: null }) }, `${label(name)}: ${value.slice(0, 60)} ×`),
  );
  at("active").replaceChildren(...buttons);
}

function drawSummary() {
  const { table, grid } = shown;
  const rows = grid.rows({ search: "applied" }).data().toArray();
  const values = (key) => rows.map((row) => row[table.index.get(key)]).filter((value) => value !== null);
  const column = (key) => table.columns[table.index.get(key)];
  const parts = [];
  const isRepresentative = table.rows.length === table.total || !table.prioritized;
  if (isRepresentative && table.tally && values(table.tally).length) {
    const counts = new Map();
    for (const value of values(table.tally)) counts.set(value, (counts.get(value) || 0) + 1);
    const sorted = [...counts].sort((a, b) => b[1] - a[1]).map(([value, n]) => `${count(n)} ${value}`);
    parts.push(`${column(table.tally).label}: ${sorted.join(", ")}`);
  }
  const numbers = isRepresentative && table.mean ? values(table.mean) : [];
  if (numbers.length) {
    const mean = numbers.reduce((a, b) => a + b, 0) / numbers.length;
    parts.push(`mean ${column(table.mean).label} ${asText(mean, column(table.mean))}`);
  }
  if (table.rows.length < table.total) {
    parts.push(`this page holds ${count(table.rows.length)} of ${count(table.total)} rows, ${table.drawn}`);
  }
  at("summary").textContent = parts.join(" · ");
}

// --- a row in full, below it ---

function toggle(row) {
  if (row.child.isShown()) row.child.hide();
  else if (row.data()) row.child(details(row.data()), "details").show();
}

function details(row) {
  const { table } = shown;
  const value = (column) => row[table.index.get(column.key)];
  const pair = (column) => make("div", {}, make("dt", {}, column.label), make("dd", {}, asText(value(column), column)));
  const given = table.columns.filter((column) => value(column) !== null);
  const texts = given.filter(isText).map((column) => {
    const about = given.filter((other) => other.of === column.key).map(pair);
    return make("section", {}, make("h3", {}, column.label), make("p", {}, asText(value(column), column)), make("dl", {}, ...about));
  });
  const rest = given.filter((column) => !isText(column) && column.kind !== "series" && !column.of).map(pair);
  return make("div", {}, make("div", { class: "texts" }, ...texts), make("dl", {}, ...rest), ...series(given, row), links(row));
}

// The series of a row as a small table with a line per step.
function series(given, row) {
  const columns = given.filter((column) => column.kind === "series");
  if (!columns.length) return [];
  const cell = (column, i) => asText(row[shown.table.index.get(column.key)][i], { kind: "number", digits: column.digits });
  const line = (tick, i) => make("tr", {}, make("th", {}, tick), ...columns.map((column) => make("td", {}, cell(column, i))));
  const head = make("tr", {}, ...["", ...columns.map((column) => column.label)].map((label) => make("th", {}, label)));
  return [make("table", {}, head, ...columns[0].ticks.map(line))];
}

// Links to the rows of all views about the same prompt or, from a cluster, about the same arm.
function links(row) {
  const names = shown.table.key === "clusters" ? ["cluster", "method", "seed"] : ["prompt_id"];
  const exact = names.map((name) => [name, String(row[shown.table.index.get(name)])]);
  const found = data.tables.flatMap((table) => {
    if (!names.every((name) => table.index.has(name))) return [];
    const same = table.rows.filter((other) => exact.every(([name, value]) => String(other[table.index.get(name)]) === value));
    return same.length ? [make("a", { href: addressOf(table, exact) }, `${table.label} (${count(same.length)})`)] : [];
  });
  return make("p", { class: "links" }, shown.table.key === "clusters" ? "This cluster: " : "This prompt: ", ...found);
}

// --- the map of clusters ---

function drawMap() {
  const place = (name) => shown.table.index.get(name);
  const row = shown.table.rows.find((other) => [...shown.exact].every(([name, value]) => String(other[place(name)]) === value));
  const map = data.maps.find((other) => row && other.clusters === row[place("clusters")]) || data.maps[0];
  const visible = shown.table.key === "clusters" && map !== undefined;
  at("map").replaceChildren();
  at("map").hidden = !visible;
  if (!visible) return;
  const chosen = shown.exact.get("cluster");
  const own = data.maps.length > 1 ? { clusters: map.clusters } : {}; // other maps number their clusters from 0, too
  const [left, bottom] = [0, 1].map((axis) => Math.min(...map.points.map((point) => point[axis])));
  const [right, top] = [0, 1].map((axis) => Math.max(...map.points.map((point) => point[axis])));
  const picture = make("svg", { svg: true, viewBox: "0 0 640 320", role: "img", "aria-label": "Map of the training prompts" });
  for (const [x, y, cluster, text] of map.points) {
    const faint = chosen !== undefined && chosen !== String(cluster) ? " faint" : "";
    const point = make("circle", {
      svg: true,
      cx: (10 + ((x - left) / (right - left || 1)) * 620).toFixed(1),
      cy: (310 - ((y - bottom) / (top - bottom || 1)) * 300).toFixed(1),
      r: 4,
      class: `c${cluster % COLORS}${faint}`,
      "data-cluster": cluster,
      click: () => setExact(chosen === String(cluster) ? { cluster: null } : { cluster: String(cluster), ...own }),
    });
    const title = text === null ? "" : `: ${data.texts[text].slice(0, 160)}`;
    point.append(make("title", { svg: true }, `cluster ${cluster}${title}`));
    picture.append(point);
  }
  const others = data.maps.filter((other) => other !== map);
  const linked = others.map((other) => make("a", { href: addressOf(shown.table, [["clusters", other.clusters]]) }, ` Map of ${other.clusters}.`));
  const note = `${count(map.points.length)} of ${count(map.total)} training prompts by the first two principal components of their embeddings; a click shows one cluster.`;
  at("map").append(picture, make("p", {}, note, ...linked));
}

// --- the whole page ---

document.documentElement.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
at("name").textContent = data.name;
at("about").textContent = data.about;
// KeyTable, which moves between cells, listens to all keys of the page while a cell has its focus. The input by which it
// enters the table has no other use.
const isCellInput = (node) => node.id.startsWith("keytable-focus-capture");
document.addEventListener("focusin", (event) => {
  if (event.target.matches("input, select, textarea, button, a") && !isCellInput(event.target)) shown?.grid.cell.blur();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && (isCellInput(event.target) || !event.target.matches("input, select, textarea"))) {
    event.preventDefault();
    document.querySelector(".dt-search input").focus();
  }
});
window.addEventListener("hashchange", drawView);
drawView();
