"use strict";
// Draws the tables that lie in the page as JSON. Everything in them is untrusted text: it becomes text nodes, option
// texts and attribute values, never HTML. What is shown stands in the address after #: a view, then its settings.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const texts = data.texts;
  const views = new Map(data.tables.map((table) => [table.key, table]));
  const ROWS = [25, 50, 100, 250];
  const FEW = 60; // values of a column that a list can offer
  const COLOURS = 8; // of clusters, in browse.css; more take them again, and numbers tell them apart
  const RESERVED = ["q", "sort", "page", "per", "row", "columns"];
  const collator = new Intl.Collator("en", { numeric: true });
  const at = (id) => document.getElementById(id);

  let lower = null; // the texts in lower case, once somebody searches
  let state = null;
  let found = { key: "", rows: [] }; // the rows of the last search, and what was asked
  const lastAddress = new Map(); // of each view, so that a tab comes back as it was left

  // --- small things ---

  function make(tag, attributes = {}, ...children) {
    const namespace = attributes.svg ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
    const node = document.createElementNS(namespace, tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "svg" || value === null || value === undefined || value === false) continue;
      if (typeof value === "function") node.addEventListener(name, value);
      else node.setAttribute(name, value === true ? "" : String(value));
    }
    node.append(...children);
    return node;
  }

  function fill(node, ...children) {
    node.replaceChildren(...children);
  }

  function format(value, digits) {
    if (value === null) return "–";
    if (typeof value !== "number") return String(value);
    const size = Math.abs(value);
    const text =
      size >= 1e6 || (size > 0 && size < 10 ** -digits / 2)
        ? value.toPrecision(3)
        : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    return text.replace("-", "−");
  }

  const count = (n) => n.toLocaleString("en");
  const isText = (column) => column.kind === "text" || column.kind === "texts";

  // --- what each view's columns hold ---

  for (const table of views.values()) {
    table.place = new Map(table.columns.map((column, i) => [column.key, i]));
    table.columns.forEach((column, i) => {
      column.index = i;
      if (column.kind === "choice") {
        const values = new Set(table.rows.map((row) => row[i]));
        column.values = [...values].sort((a, b) => collator.compare(String(a), String(b)));
      } else if (column.kind === "number") {
        const numbers = table.rows.map((row) => row[i]).filter((value) => value !== null);
        column.range = numbers.length
          ? [numbers.reduce((a, b) => Math.min(a, b)), numbers.reduce((a, b) => Math.max(a, b))]
          : null;
      }
      // A column that says the same of every row would only take space.
      // Untrained policies have no seed, which makes no second value of it.
      const values = column.values && column.values.filter((value) => value !== null || column.key !== "seed");
      const says = values ? values.length > 1 : column.kind !== "number" || column.range !== null;
      column.usual = column.shown && (says || !table.rows.length);
    });
  }

  // --- the address ---

  function readAddress() {
    const [key, query] = splitOnce(location.hash.slice(1), "?");
    const table = views.get(key) || data.tables[0];
    const given = new URLSearchParams(query);
    const filters = new Map();
    for (const [name, value] of given) {
      if (!RESERVED.includes(name) && table.place.has(name) && value !== "") filters.set(name, value);
    }
    const sort = given.get("sort") || "";
    const columns = given.has("columns")
      ? given.get("columns").split(",").filter((name) => table.place.has(name))
      : null;
    const row = given.has("row") ? Number(given.get("row")) : null;
    return {
      table,
      q: given.get("q") || "",
      filters,
      sort: table.place.has(sort.replace(/^-/, "")) ? sort : "",
      page: Math.max(1, Number(given.get("page")) || 1),
      per: ROWS.includes(Number(given.get("per"))) ? Number(given.get("per")) : ROWS[0],
      row: table.rows[row] ? row : null,
      columns: columns && columns.length ? columns : null,
    };
  }

  function splitOnce(text, mark) {
    const place = text.indexOf(mark);
    return place < 0 ? [text, ""] : [text.slice(0, place), text.slice(place + 1)];
  }

  function addressOf(wanted) {
    const given = new URLSearchParams();
    if (wanted.q) given.set("q", wanted.q);
    for (const [name, value] of wanted.filters) given.set(name, value);
    if (wanted.sort) given.set("sort", wanted.sort);
    if (wanted.page > 1) given.set("page", wanted.page);
    if (wanted.per !== ROWS[0]) given.set("per", wanted.per);
    if (wanted.columns) given.set("columns", wanted.columns.join(","));
    if (wanted.row !== null) given.set("row", wanted.row);
    const query = given.toString();
    return `#${wanted.table.key}${query ? `?${query}` : ""}`;
  }

  function link(key, filters) {
    const given = new URLSearchParams(filters);
    return `#${key}?${given}`;
  }

  // Settings change the address in place; only a tab or a link adds to the browser's history.
  function change(differences) {
    if (!("page" in differences) && !("row" in differences)) differences.page = 1;
    Object.assign(state, differences);
    history.replaceState(null, "", addressOf(state));
    lastAddress.set(state.table.key, location.hash);
    drawRows();
  }

  function setFilter(name, value) {
    const filters = new Map(state.filters);
    if (value === "") filters.delete(name);
    else filters.set(name, value);
    change({ filters });
  }

  // --- search, filter, sort ---

  function textsWith(word) {
    lower = lower || texts.map((text) => text.toLowerCase());
    return Uint8Array.from(lower, (text) => (text.includes(word) ? 1 : 0));
  }

  function wordsOf(query) {
    return query.toLowerCase().split(/\s+/).filter(Boolean);
  }

  // A test of one row for a search: every word must stand in one of its texts or words.
  function searchTest(table, query) {
    const searched = table.columns.filter((column) => isText(column) || column.kind === "choice");
    const words = wordsOf(query).map((word) => ({ word, hits: textsWith(word) }));
    const holds = (row, { word, hits }) =>
      searched.some((column) => {
        const value = row[column.index];
        if (value === null) return false;
        if (column.kind === "text") return hits[value] === 1;
        if (column.kind === "texts") return value.some((text) => hits[text] === 1);
        return String(value).toLowerCase().includes(word);
      });
    return (row) => words.every((word) => holds(row, word));
  }

  function filterTest(column, asked) {
    const i = column.index;
    if (column.kind === "number") {
      const [low, high] = asked.split("..");
      const least = low ? Number(low) : -Infinity;
      const most = high ? Number(high) : Infinity;
      return (row) => row[i] !== null && row[i] >= least && row[i] <= most;
    }
    const exact = asked.startsWith("=") ? asked.slice(1) : null;
    if (column.kind === "choice" && (exact !== null || column.values.length <= FEW)) {
      const value = exact === null ? asked : exact;
      return (row) => String(row[i]) === value;
    }
    const word = (exact === null ? asked : exact).toLowerCase();
    if (column.kind === "choice") return (row) => String(row[i]).toLowerCase().includes(word);
    if (exact !== null) return (row) => [row[i]].flat().some((text) => text !== null && texts[text] === exact);
    const hits = textsWith(word);
    return (row) => [row[i]].flat().some((text) => text !== null && hits[text] === 1);
  }

  function sortKey(column) {
    const i = column.index;
    if (column.kind === "text") return (row) => (row[i] === null ? null : texts[row[i]]);
    if (column.kind === "texts") return (row) => (row[i].length ? texts[row[i][0]] : null);
    if (column.kind === "series") {
      return (row) => row[i].reduce((last, value) => (value === null ? last : value), null);
    }
    return (row) => row[i];
  }

  // Numbers of the rows asked for, in order. Sorting is stable, and rows without a value come last either way.
  function search() {
    const { table, q, filters, sort } = state;
    const key = JSON.stringify([table.key, q, [...filters], sort]);
    if (found.key === key) return found.rows;
    const tests = [...filters].map(([name, asked]) => filterTest(table.columns[table.place.get(name)], asked));
    if (wordsOf(q).length) tests.push(searchTest(table, q));
    let rows = [];
    table.rows.forEach((row, number) => {
      if (tests.every((test) => test(row))) rows.push(number);
    });
    if (sort) {
      const down = sort.startsWith("-");
      const value = sortKey(table.columns[table.place.get(sort.replace(/^-/, ""))]);
      const keys = new Map(rows.map((number) => [number, value(table.rows[number])]));
      const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b));
      rows.sort((a, b) => {
        const [one, other] = [keys.get(a), keys.get(b)];
        if (one === null || other === null) return (one === null) - (other === null);
        return down ? compare(other, one) : compare(one, other);
      });
    }
    found = { key, rows };
    return rows;
  }

  // --- text with the searched words marked ---

  function marked(text) {
    const words = state ? wordsOf(state.q) : [];
    if (!words.length) return [text];
    const pattern = new RegExp(words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"), "gi");
    const parts = [];
    let end = 0;
    for (const match of text.matchAll(pattern)) {
      parts.push(text.slice(end, match.index), make("mark", {}, match[0]));
      end = match.index + match[0].length;
    }
    return [...parts, text.slice(end)];
  }

  // The start of a text for a cell, from a little before the first searched word.
  function preview(text) {
    const words = wordsOf(state.q);
    const small = words.length ? text.toLowerCase() : "";
    const first = Math.min(...words.map((word) => small.indexOf(word)).filter((place) => place >= 0));
    const from = Number.isFinite(first) && first > 120 ? first - 60 : 0;
    const part = text.slice(from, from + 400);
    return marked(`${from ? "… " : ""}${part}${from + 400 < text.length ? " …" : ""}`);
  }

  // --- cells ---

  function cellContent(column, row) {
    const value = row[column.index];
    if (value === null) return ["–"];
    if (column.kind === "text") return texts[value] === "" ? [make("i", {}, "empty")] : preview(texts[value]);
    if (column.kind === "texts") return value.length ? preview(texts[value[0]]) : ["–"];
    if (column.kind === "series") return [bars(column, value)];
    if (column.kind === "number") return [format(value, column.digits)];
    const word = String(value);
    if (column.key === "cluster") return [swatch(value), word];
    if (["outcome", "trained"].includes(column.key)) return [make("span", { class: `word ${word}` }, word)];
    return marked(word);
  }

  function swatch(cluster) {
    return make("span", { class: `swatch c${cluster % COLOURS}`, "aria-hidden": "true" });
  }

  function bars(column, values) {
    const numbers = values.filter((value) => value !== null);
    const low = Math.min(0, ...numbers);
    const span = Math.max(0, ...numbers) - low || 1;
    const told = values.map((value, i) => `${column.ticks[i]}: ${format(value, column.digits)}`).join("; ");
    const picture = make("svg", {
      svg: true,
      class: "bars",
      viewBox: `0 0 ${values.length * 10} 24`,
      width: values.length * 10,
      height: 24,
      role: "img",
      "aria-label": told,
    });
    picture.append(make("title", { svg: true }, told));
    const zero = 23 + (low / span) * 22;
    values.forEach((value, i) => {
      if (value === null) return;
      const top = 23 - ((Math.max(value, 0) - low) / span) * 22;
      const height = Math.max(1, (Math.abs(value) / span) * 22);
      picture.append(make("rect", { svg: true, x: i * 10 + 1, y: value < 0 ? zero : top, width: 8, height }));
    });
    return picture;
  }

  // --- the table ---

  function shownColumns() {
    const { table, columns } = state;
    return table.columns.filter((column) => (columns ? columns.includes(column.key) : column.usual));
  }

  function drawRows() {
    const { table } = state;
    const rows = search();
    const pages = Math.max(1, Math.ceil(rows.length / state.per));
    state.page = Math.min(state.page, pages);
    const first = (state.page - 1) * state.per;
    const here = rows.slice(first, first + state.per);
    drawHead();
    const columns = shownColumns();
    fill(
      document.querySelector("tbody"),
      ...here.map((number) => {
        const row = table.rows[number];
        const open = number === state.row;
        return make(
          "tr",
          {
            tabindex: open || (state.row === null && number === here[0]) ? 0 : -1,
            "data-row": number,
            "aria-current": open ? "true" : null,
          },
          ...columns.map((column) =>
            make(
              "td",
              { class: column.kind, "data-label": column.label },
              make("div", {}, ...cellContent(column, row)),
            ),
          ),
        );
      }),
    );
    if (!here.some((number) => number === state.row)) {
      const start = document.querySelector("tbody tr");
      if (start) start.tabIndex = 0;
    }
    drawSummary(rows, first, here.length);
    drawActive();
    drawPages(pages);
    drawDetails();
    markMap();
    drawTabs();
  }

  function drawHead() {
    const sorted = state.sort.replace(/^-/, "");
    const direction = state.sort.startsWith("-") ? "descending" : "ascending";
    const focused = document.activeElement?.closest("th")?.querySelector("button")?.dataset.column;
    fill(
      document.querySelector("thead"),
      make(
        "tr",
        {},
        ...shownColumns().map((column) =>
          make(
            "th",
            { scope: "col", class: column.kind, "aria-sort": column.key === sorted ? direction : null },
            make(
              "button",
              {
                type: "button",
                title: column.help || null,
                "data-column": column.key,
                click: () => sortBy(column.key),
              },
              column.label,
            ),
          ),
        ),
      ),
    );
    if (focused) document.querySelector(`th button[data-column="${focused}"]`)?.focus();
    at("sort").value = state.sort;
  }

  // Up, down, and back to the file's own order.
  function sortBy(key) {
    change({ sort: state.sort === key ? `-${key}` : state.sort === `-${key}` ? "" : key });
  }

  function drawSummary(rows, first, shown) {
    const { table } = state;
    const parts = [];
    const held = table.rows.length;
    if (!rows.length) parts.push(held ? "No row is like that." : "There are no such rows.");
    else parts.push(`${count(first + 1)}–${count(first + shown)} of ${count(rows.length)} rows`);
    if (rows.length && rows.length < held) parts[0] += `, filtered from ${count(held)}`;
    if (table.tally && rows.length) {
      const i = table.place.get(table.tally);
      const tally = new Map();
      for (const number of rows) tally.set(table.rows[number][i], (tally.get(table.rows[number][i]) || 0) + 1);
      const sorted = [...tally].filter(([value]) => value !== null).sort((a, b) => b[1] - a[1]);
      const label = table.columns[i].label;
      if (sorted.length) parts.push(`${label}: ${sorted.map(([value, n]) => `${count(n)} ${value}`).join(", ")}`);
    }
    if (table.mean && rows.length) {
      const column = table.columns[table.place.get(table.mean)];
      const values = rows.map((number) => table.rows[number][column.index]).filter((value) => value !== null);
      if (values.length) {
        const sum = values.reduce((a, b) => a + b, 0);
        parts.push(`mean ${column.label} ${format(sum / values.length, column.digits)}`);
      }
    }
    if (held < table.total) {
      parts.push(`this page holds ${count(held)} of ${count(table.total)} rows, ${table.drawn}`);
    }
    at("summary").textContent = parts.join(" · ");
  }

  function drawActive() {
    const { table, filters, q } = state;
    const buttons = [...filters].map(([name, asked]) => {
      const column = table.columns[table.place.get(name)];
      const told = column.kind === "number" ? rangeInWords(asked) : asked === "null" ? "–" : asked.replace(/^=/, "");
      return make(
        "button",
        { type: "button", "aria-label": `Remove filter ${column.label}: ${told}`, click: () => drop(name) },
        `${column.label}: ${told.length > 40 ? `${told.slice(0, 40)}…` : told}`,
        make("span", { "aria-hidden": "true" }, " ×"),
      );
    });
    if (filters.size > 1 || (filters.size && q)) {
      buttons.push(make("button", { type: "button", class: "quiet", click: clear }, "Clear all"));
    }
    fill(at("active"), ...buttons);
    at("filter").textContent = filters.size ? `Filters (${filters.size})` : "Filters";
  }

  function rangeInWords(asked) {
    const [low, high] = asked.split("..");
    return high ? (low ? `${low} to ${high}` : `at most ${high}`) : `at least ${low}`;
  }

  function drop(name) {
    setFilter(name, "");
    drawFilters();
  }

  function clear() {
    at("search").value = "";
    change({ filters: new Map(), q: "" });
    drawFilters();
  }

  function drawPages(pages) {
    const go = (page) => () => {
      change({ page, row: null });
      at("split").scrollIntoView({ block: "nearest" });
    };
    const button = (label, page, off) => make("button", { type: "button", disabled: off, click: go(page) }, label);
    const per = make(
      "select",
      { "aria-label": "Rows a page", change: (event) => change({ per: Number(event.target.value), page: 1 }) },
      ...ROWS.map((n) => make("option", { value: n, selected: n === state.per }, `${n} rows a page`)),
    );
    fill(
      at("pages"),
      button("First", 1, state.page === 1),
      button("Previous", state.page - 1, state.page === 1),
      make("span", {}, `Page ${count(state.page)} of ${count(pages)}`),
      button("Next", state.page + 1, state.page === pages),
      button("Last", pages, state.page === pages),
      per,
    );
  }

  // --- one row in full ---

  function drawDetails() {
    const pane = at("details");
    const { table, row: number } = state;
    pane.hidden = number === null;
    document.body.classList.toggle("open", number !== null);
    if (number === null) {
      fill(pane);
      return;
    }
    const row = table.rows[number];
    const rows = search();
    const place = rows.indexOf(number);
    const step = (by, label) => {
      const next = place < 0 ? undefined : rows[place + by];
      return make("button", { type: "button", disabled: next === undefined, click: () => open(next) }, label);
    };
    const told = (column) =>
      make(
        "div",
        {},
        make("dt", { title: column.help || null }, column.label),
        " ",
        make("dd", {}, ...cellContent(column, row)),
      );
    const about = (key) => table.columns.filter((column) => column.of === key && row[column.index] !== null);
    const blocks = table.columns.filter(isText).flatMap((column) =>
      [row[column.index]].flat().map((text, i) =>
        make(
          "section",
          { class: column.key },
          make("h3", {}, column.kind === "texts" ? `example prompt ${i + 1}` : column.label),
          make("p", { class: "text" }, ...(text === null ? ["–"] : marked(texts[text]))),
          about(column.key).length ? make("dl", {}, ...about(column.key).map(told)) : "",
        ),
      ),
    );
    const rest = table.columns.filter(
      (column) => !isText(column) && column.kind !== "series" && !column.of && row[column.index] !== null,
    );
    fill(
      pane,
      make(
        "div",
        { class: "bar" },
        make("h2", {}, `${table.label}, row ${count(number + 1)}`),
        step(-1, "Previous"),
        step(1, "Next"),
        make("button", { type: "button", id: "close", click: close }, "Close"),
      ),
      make("div", { class: "texts" }, ...blocks),
      make("dl", { class: "rest" }, ...rest.map(told)),
      ...stepsOf(table, row),
      make("p", { class: "links" }, ...related(table, row)),
    );
  }

  // Series of a row as one small table, a line a step.
  function stepsOf(table, row) {
    const series = table.columns.filter((column) => column.kind === "series");
    if (!series.length) return [];
    return [
      make(
        "table",
        { class: "history" },
        make(
          "thead",
          {},
          make("tr", {}, ...["", ...series.map((c) => c.label)].map((t) => make("th", { scope: "col" }, t))),
        ),
        make(
          "tbody",
          {},
          ...series[0].ticks.map((tick, i) =>
            make(
              "tr",
              {},
              make("th", { scope: "row" }, tick),
              ...series.map((column) => make("td", {}, format(row[column.index][i], column.digits))),
            ),
          ),
        ),
      ),
    ];
  }

  // Links to what other views have of the same prompt, or of a cluster.
  function related(table, row) {
    const value = (key) => row[table.place.get(key)];
    const names = table.key === "clusters" ? ["cluster", "method", "seed"] : ["prompt_id"];
    return data.tables.flatMap((other) => {
      if (names.some((name) => !other.place.has(name)) || value(names[0]) === null) return [];
      const places = names.map((name) => other.place.get(name));
      const same = other.rows.filter((r) => names.every((name, i) => r[places[i]] === value(name))).length;
      if (!same || (other === table && same < 2) || (other === table && table.key === "clusters")) return [];
      const filters = names.map((name) => [name, `=${value(name)}`]);
      const whose = table.key === "clusters" ? "of this cluster" : "of this prompt";
      return [make("a", { href: link(other.key, filters) }, `${other.label} ${whose} (${count(same)})`)];
    });
  }

  function rowNode(number) {
    return document.querySelector(`tr[data-row="${number}"]`);
  }

  // Shows a row, and turns to its page if it stands on another.
  function open(number) {
    const place = search().indexOf(number);
    const page = place < 0 ? state.page : Math.floor(place / state.per) + 1;
    const inside = at("details").contains(document.activeElement);
    change({ row: number, page });
    if (inside) at("details").focus();
    else rowNode(number)?.focus({ preventScroll: true });
    rowNode(number)?.scrollIntoView({ block: "nearest" });
    at("details").scrollTop = 0;
  }

  function close() {
    const number = state.row;
    change({ row: null });
    (rowNode(number) || document.querySelector("tbody tr"))?.focus();
  }

  // --- filters and columns ---

  function drawFilters() {
    const { table, filters } = state;
    const fields = table.columns.filter((column) => {
      if (column.kind === "series") return false;
      if (column.kind === "number") return column.range !== null;
      return column.kind !== "choice" || column.values.length > 1;
    });
    fill(at("filters"), ...fields.map((column) => filterField(column, filters.get(column.key) || "")));
  }

  function filterField(column, asked) {
    const { key, label } = column;
    const put = (value) => setFilter(key, value);
    if (column.kind === "number") {
      const [low = "", high = ""] = asked.split("..");
      const ends = { low, high };
      const end = (name, value, other) =>
        make("input", {
          type: "number",
          step: "any",
          value,
          placeholder: format(other, column.digits),
          "aria-label": `${label}, ${name === "low" ? "at least" : "at most"}`,
          input: (event) => {
            ends[name] = event.target.value;
            put(ends.low || ends.high ? `${ends.low}..${ends.high}` : "");
          },
        });
      const [least, most] = column.range;
      return make(
        "fieldset",
        { title: column.help || null },
        make("legend", {}, label),
        end("low", low, least),
        " to ",
        end("high", high, most),
      );
    }
    if (column.kind === "choice" && column.values.length <= FEW) {
      const chosen = asked.replace(/^=/, "");
      const options = column.values.map((value) =>
        make("option", { value: String(value), selected: String(value) === chosen }, value === null ? "–" : String(value)),
      );
      const choose = make(
        "select",
        { "data-filter": key, change: (event) => put(event.target.value) },
        make("option", { value: "" }, "any"),
        ...options,
      );
      return make("label", { title: column.help || null }, label, choose);
    }
    const input = make("input", {
      type: "text",
      value: asked,
      placeholder: "contains, or =exactly",
      "data-filter": key,
      spellcheck: "false",
      input: later((event) => put(event.target.value)),
    });
    return make("label", { title: column.help || null }, label, input);
  }

  function drawColumns() {
    const { table } = state;
    const shown = new Set(shownColumns().map((column) => column.key));
    const boxes = table.columns.map((column) =>
      make(
        "label",
        { title: column.help || null },
        make("input", {
          type: "checkbox",
          checked: shown.has(column.key),
          "data-column": column.key,
          change: (event) => {
            if (event.target.checked) shown.add(column.key);
            else shown.delete(column.key);
            change({ columns: shown.size ? [...shown] : null, page: state.page });
          },
        }),
        column.label,
      ),
    );
    const usual = make("button", { type: "button", click: () => (change({ columns: null }), drawColumns()) }, "As usual");
    fill(at("columns"), ...boxes, usual);
  }

  function drawSortChoice() {
    const options = state.table.columns.flatMap((column) => [
      make("option", { value: column.key }, `${column.label} ↑`),
      make("option", { value: `-${column.key}` }, `${column.label} ↓`),
    ]);
    fill(at("sort"), make("option", { value: "" }, "as in the files"), ...options);
  }

  // Waits for a pause in typing.
  function later(act) {
    let waiting = 0;
    return (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => act(event), 150);
    };
  }

  // --- the map of clusters ---

  function drawMap() {
    const place = at("map");
    const shown = state.table.key === "clusters" && data.maps.length > 0;
    place.hidden = !shown;
    if (!shown) {
      fill(place);
      return;
    }
    const wanted = (state.filters.get("clusters") || "").replace(/^=/, "");
    const map = data.maps.find((one) => one.clusters === wanted) || data.maps[0];
    const xs = map.points.map((point) => point[0]);
    const ys = map.points.map((point) => point[1]);
    const [left, bottom] = [Math.min(...xs), Math.min(...ys)];
    const scale = 620 / (Math.max(...xs) - left || 1);
    const lift = 300 / (Math.max(...ys) - bottom || 1);
    const onMap = (x, y) => [10 + (x - left) * scale, 310 - (y - bottom) * lift];
    const clusters = [...new Set(map.points.map((point) => point[2]))].sort((a, b) => a - b);
    const told = `${count(map.points.length)} training prompts in ${clusters.length} clusters`;
    const picture = make("svg", { svg: true, viewBox: "0 0 640 320", role: "img", "aria-label": told });
    for (const [x, y, cluster, text] of map.points) {
      const [cx, cy] = onMap(x, y);
      const words = text === null ? `cluster ${cluster}` : `cluster ${cluster}: ${texts[text].slice(0, 160)}`;
      const point = make("circle", { svg: true, cx: cx.toFixed(1), cy: cy.toFixed(1), r: 4, "data-cluster": cluster });
      point.classList.add(`c${cluster % COLOURS}`);
      point.append(make("title", { svg: true }, words));
      picture.append(point);
    }
    for (const cluster of clusters) {
      const own = map.points.filter((point) => point[2] === cluster);
      const middle = (i) => own.reduce((sum, point) => sum + point[i], 0) / own.length;
      const [x, y] = onMap(middle(0), middle(1));
      picture.append(make("text", { svg: true, x: x.toFixed(1), y: (y + 5).toFixed(1), "data-cluster": cluster }, String(cluster)));
    }
    const choose = (cluster) => {
      const asked = state.filters.get("cluster");
      setFilter("cluster", asked === String(cluster) || asked === `=${cluster}` ? "" : String(cluster));
      drawFilters();
    };
    picture.addEventListener("click", (event) => {
      const cluster = event.target.getAttribute("data-cluster");
      if (cluster !== null) choose(cluster);
    });
    const legend = clusters.map((cluster) =>
      make(
        "button",
        { type: "button", "data-cluster": cluster, "aria-pressed": "false", click: () => choose(cluster) },
        swatch(cluster),
        `${cluster}`,
      ),
    );
    const others = data.maps.filter((one) => one !== map).map((one) => {
      const filters = one.clusters === data.maps[0].clusters ? [] : [["clusters", one.clusters]];
      return make("a", { href: link("clusters", filters) }, `the map of ${one.clusters}`);
    });
    const held = map.points.length < map.total ? `, of ${count(map.total)}, drawn at random` : "";
    fill(
      place,
      picture,
      make("div", { class: "legend", role: "group", "aria-label": "Show one cluster" }, ...legend),
      make("p", {}, `${told}${held}, by their embeddings' first two principal components.`, ...others.flatMap((a) => [" See ", a, "."])),
    );
  }

  function markMap() {
    const asked = (state.filters.get("cluster") || "").replace(/^=/, "");
    for (const node of at("map").querySelectorAll("[data-cluster]")) {
      const its = asked === node.getAttribute("data-cluster");
      if (node.tagName === "BUTTON") node.setAttribute("aria-pressed", its ? "true" : "false");
      else node.classList.toggle("faint", asked !== "" && !its);
    }
  }

  // --- the whole page ---

  function drawTabs() {
    fill(
      at("views"),
      ...data.tables.map((table) =>
        make(
          "a",
          {
            href: table === state.table ? addressOf(state) : lastAddress.get(table.key) || `#${table.key}`,
            "aria-current": table === state.table ? "page" : null,
          },
          table.label,
          " ",
          make("small", {}, count(table.rows.length)),
        ),
      ),
    );
  }

  function drawView() {
    state = readAddress();
    lastAddress.set(state.table.key, addressOf(state));
    at("note").textContent = state.table.note;
    at("search").value = state.q;
    at("skip").href = addressOf(state);
    drawSortChoice();
    drawFilters();
    drawColumns();
    drawMap();
    drawRows();
  }

  at("name").textContent = data.name;
  at("about").textContent = data.about;
  at("search").addEventListener("input", later((event) => change({ q: event.target.value })));
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("sort").addEventListener("change", (event) => change({ sort: event.target.value }));
  at("skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector("tbody tr")?.focus();
  });
  at("filter").addEventListener("click", () => {
    at("filters").hidden = !at("filters").hidden;
    at("filter").setAttribute("aria-expanded", String(!at("filters").hidden));
  });
  document.querySelector("tbody").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && !String(getSelection())) open(Number(row.dataset.row));
  });
  document.querySelector("tbody").addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      open(Number(row.dataset.row));
      at("details").focus();
    } else if (next && state.row !== null) open(Number(next.dataset.row));
    else if (next) {
      row.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "Escape" && at("choose").open) {
      at("choose").open = false;
      at("choose").querySelector("summary").focus();
    } else if (event.key === "Escape" && state.row !== null) close();
    else if (event.key === "/" && !typing) {
      event.preventDefault();
      at("search").focus();
    }
  });
  document.addEventListener("click", (event) => {
    if (!at("choose").contains(event.target)) at("choose").open = false;
  });
  window.addEventListener("hashchange", drawView);
  drawView();
})();
