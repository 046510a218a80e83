// The policy: who may reach whom, who did and who was refused as a matrix; what rules have done; what the staged version would do otherwise.

import { ApiError, get, post, remove } from "./api.js";
import { ruleFacts, showDetail } from "./detail.js";
import { announce, bytes, confirmed, count, duration, end, facts, fill, h, number, setText, throttled, verdict } from "./dom.js";
import { may } from "./role.js";
import { store } from "./store.js";
import { Table } from "./table.js";

/** Rows of one answer, and how often they are asked for again, in milliseconds */
const PAGE = 2000;
const EVERY = 8000;
/** Columns that are shown; with more, one is to be searched for. */
const COLUMNS = 80;
const ROWS = 200;
/** With no more columns than this, a cell has room for services. */
const ROOMY = 6;

const tenantless = (name) => name.slice(name.indexOf("/") + 1);

/** What a cell says, in a sentence */
function sentence(row) {
  const said = [];
  if (row.passing === 0) said.push(row.unasked ? "not all of it is known" : "may not reach it");
  else if (row.passing === row.pairs) said.push(`may reach it: ${services(row)}`);
  else said.push(`${number(row.passing)} of ${count(row.pairs, "pair")} may reach it: ${services(row)}`);
  if (row.flows) said.push(`${count(row.flows, "live flow")}`);
  if (row.refused) said.push(`${count(row.refused, "packet")} refused`);
  if (row.would_deny) said.push(`${count(row.would_deny, "packet")} passed in audit only`);
  if (row.staged_refused) said.push(`the staged version would refuse ${count(row.staged_refused, "flow")}`);
  if (row.staged_passed) said.push(`the staged version would let pass ${count(row.staged_passed, "packet")}`);
  return `${row.from} to ${row.to}: ${said.join("; ")}`;
}

function services(row) {
  const all = [...new Set((row.passages ?? []).flatMap((passage) => passage.services))];
  return all.length > 4 ? `${all.slice(0, 4).join(", ")} and ${all.length - 4} more` : all.join(", ");
}

const may_ = (row) => (row.passing === 0 ? (row.unasked ? "unknown" : "none") : row.passing === row.pairs ? "full" : "some");

const audits = (row) => (row.passages ?? []).some((passage) => passage.audit) || row.would_deny;

function cellDetail(row, focus) {
  const passages = (row.passages ?? []).map((passage) => h("div", { class: "passage" },
    h("h3", {}, passage.services.join(", ")),
    h("p", { class: "dim" }, passage.pairs === row.pairs ? "between all of them" : `between ${number(passage.pairs)} of ${count(row.pairs, "pair")} of endpoints`, passage.audit ? h("span", {}, " · ", verdict("audit")) : null),
    ruleFacts("Egress", passage.egress), ruleFacts("Ingress", passage.ingress)));
  const who = (name) => encodeURIComponent(name);
  showDetail(`${row.from} → ${row.to}`, [
    facts([
      ["May", row.passing === 0 ? "nothing" : row.passing === row.pairs ? "yes" : `${number(row.passing)} of ${count(row.pairs, "pair")}`],
      ["Did", row.flows ? count(row.flows, "live flow") : "no live flow"],
      ["Refused", row.refused ? h("span", {}, verdict("refused"), ` ${count(row.refused, "packet")}`) : null],
      ["Audit", row.would_deny ? h("span", {}, verdict("audit"), ` ${count(row.would_deny, "packet")} would have been denied`) : null],
      ["Staged", row.staged_refused || row.staged_passed ? h("span", {}, "◇ ", [row.staged_refused ? `would refuse ${count(row.staged_refused, "flow")}` : null, row.staged_passed ? `would let pass ${count(row.staged_passed, "packet")}` : null].filter(Boolean).join(", ")) : null],
      ["Not looked at", row.unasked ? count(row.unasked, "pair") : null],
    ]),
    ...(row.refused_by ?? []).map((rule) => ruleFacts("Refused by", rule)),
    passages.length ? h("h2", {}, "What may pass, and by which rules") : null,
    ...passages,
    row.more ? h("p", { class: "dim" }, `and ${number(row.more)} more kinds: eastgate show matrix tells them`) : null,
    h("div", { class: "buttons" }, h("a", { class: "button", href: `#/flows?text=${who(row.from)}` }, "Flows"), h("a", { class: "button", href: `#/trace?vni=${row.vni}` }, "Walk a packet")),
  ], { focus });
}

function matrixPart() {
  let rows = [];
  let aborter = null;
  let timer = null;
  let endpoint = "";
  let known = new Map();
  const network = h("select", { id: "matrix-network", onchange: () => load(true) });
  const filter = h("input", { type: "search", placeholder: "group or endpoint", "aria-label": "Filter the matrix", oninput: () => draw() });
  const only = h("input", { type: "checkbox", onchange: () => draw() });
  const tells = h("p", { class: "dim", role: "status" });
  const one = h("input", { id: "matrix-endpoint", list: "endpoint-names", placeholder: "all groups", onchange: (event) => { endpoint = event.target.value.trim(); load(true); } });
  const table = h("table", { class: "matrix" });
  const scroller = h("div", { class: "matrix-scroll", tabindex: "-1" }, table);
  const key = h("ul", { class: "matrix-key", "aria-label": "Key" },
    h("li", {}, h("span", { class: "may full" }, "■"), " all pairs may"), h("li", {}, h("span", { class: "may some" }, "◪"), " some may"), h("li", {}, h("span", { class: "may none" }, "·"), " none may"),
    h("li", {}, h("span", { class: "did" }, "12"), " live flows"), h("li", {}, verdict("refused")), h("li", {}, verdict("audit")), h("li", {}, h("span", { class: "verdict staged" }, "◇ staged version differs")));
  const element = h("section", { class: "part", "aria-labelledby": "matrix-title" },
    h("div", { class: "bar" }, h("h2", { id: "matrix-title" }, "Who may reach whom"), h("label", {}, "Network ", network), h("label", {}, "Endpoint ", one), filter, h("label", {}, only, " only with traffic or refusals"), tells),
    key, scroller);

  function networks() {
    const before = network.value || store.vni;
    const names = store.networks.map((it) => h("option", { value: String(it.vni) }, `${it.network} · ${it.vni}`));
    fill(network, names);
    if ([...network.options].some((option) => option.value === before)) network.value = before;
  }

  async function load(fresh) {
    clearTimeout(timer);
    aborter?.abort();
    const own = new AbortController();
    aborter = own;
    if (!network.value) return;
    if (fresh) {
      rows = [];
      known = new Map();
      draw();
      setText(tells, "asking…");
    }
    try {
      let next = null;
      const found = [];
      do {
        const answer = await get("matrix", { vni: network.value, endpoint, limit: PAGE, after: next }, own.signal);
        found.push(...answer.matrix);
        next = answer.next ?? null;
        if (next) await new Promise((resolve) => setTimeout(resolve, 1000));
      } while (next && !own.signal.aborted);
      if (own.signal.aborted) return;
      rows = found;
      draw();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      setText(tells, error.message);
    }
    if (element.isConnected) timer = setTimeout(() => { if (!document.hidden) load(false); }, EVERY);
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden && element.isConnected) load(false); });

  const isQuiet = (row) => !row.flows && !row.refused && !row.would_deny && !row.staged_refused && !row.staged_passed;

  function draw() {
    const wanted = filter.value.trim().toLowerCase();
    const fits = (name) => !wanted || name.toLowerCase().includes(wanted);
    const kept = rows.filter((row) => (fits(row.from) || fits(row.to)) && !(only.checked && isQuiet(row)));
    const order = (one, other) => one.localeCompare(other, "en", { numeric: true });
    const froms = [...new Set(kept.map((row) => row.from))].sort(order);
    const tos = [...new Set(kept.map((row) => row.to))].sort(order);
    const [ups, acrosses] = [froms.slice(0, ROWS), tos.slice(0, COLUMNS)];
    const left = froms.length - ups.length + tos.length - acrosses.length;
    setText(tells, `${count(kept.length, "pair")}${left ? `, ${number(left)} rows and columns left out: filter` : ""}`);
    const cells = new Map(kept.map((row) => [`${row.from}>${row.to}`, row]));
    const shape = `${ups.join("|")}#${acrosses.join("|")}`;
    if (table.shape !== shape) {
      table.shape = shape;
      known = new Map();
      table.classList.toggle("roomy", acrosses.length <= ROOMY);
      table.classList.toggle("wide", acrosses.length > 2 * ROOMY);
      fill(table,
        h("caption", { class: "hidden-text" }, "Rows send, columns receive. Arrow keys go from cell to cell, Enter tells the rules."),
        h("thead", {}, h("tr", {}, h("td", { class: "corner" }, "from ↓ to →"), acrosses.map((to) => h("th", { scope: "col" }, h("span", {}, tenantless(to)))))),
        h("tbody", {}, ups.map((from, y) => h("tr", {}, h("th", { scope: "row" }, tenantless(from)), acrosses.map((to, x) => {
          const button = h("button", { type: "button", tabindex: x === 0 && y === 0 ? "0" : "-1" });
          button.at = [x, y];
          known.set(`${from}>${to}`, button);
          return h("td", {}, button);
        })))));
    }
    for (const [name, button] of known) write(button, cells.get(name));
  }

  function write(button, row) {
    button.row = row;
    const sign = row ? JSON.stringify([row.passing, row.pairs, row.flows, row.refused, row.would_deny, row.staged_refused, row.staged_passed]) : "";
    if (button.sign === sign) return;
    button.sign = sign;
    if (!row) {
      fill(button);
      button.disabled = true;
      button.className = "cell-none";
      return;
    }
    const how = may_(row);
    button.disabled = false;
    button.className = `cell-${how}`;
    button.setAttribute("aria-label", sentence(row));
    button.title = sentence(row);
    fill(button,
      h("span", { class: `may ${how}` }, { full: "■", some: "◪", none: "·", unknown: "?" }[how]),
      row.flows ? h("span", { class: "did" }, short(row.flows)) : null,
      row.refused ? h("span", { class: "verdict refused" }, `✕${short(row.refused)}`) : null,
      audits(row) ? h("span", { class: "verdict audit" }, "◬") : null,
      row.staged_refused || row.staged_passed ? h("span", { class: "verdict staged" }, "◇") : null,
      h("span", { class: "services" }, row.passing ? services(row) : row.refused ? row.refused_by?.[0]?.rule ?? "" : "nothing may"));
  }

  table.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.row) cellDetail(button.row, event.detail === 0);
  });
  table.addEventListener("keydown", (event) => {
    const button = event.target.closest("button");
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!button?.at || !way) return;
    event.preventDefault();
    let [x, y] = button.at;
    let to = null;
    do {
      [x, y] = [x + way[0], y + way[1]];
      to = table.tBodies[0].rows[y]?.cells[x + 1]?.querySelector("button") ?? null;
    } while (to?.disabled);
    if (!to) return;
    button.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  });
  return {
    element,
    show(query) {
      networks();
      if (query.has("vni")) network.value = query.get("vni");
      if (query.has("endpoint")) one.value = endpoint = query.get("endpoint");
      load(rows.length === 0 || query.has("endpoint"));
    },
    hide() {
      clearTimeout(timer);
      aborter?.abort();
    },
    changed(topics) {
      if (topics.has("networks")) {
        const had = network.value;
        networks();
        if (!had && network.value) load(true);
      }
      if (topics.has("scope") && store.vni) {
        network.value = store.vni;
        load(true);
      }
    },
  };
}

const short = (value) => (value < 1000 ? String(value) : value < 1e6 ? `${Math.round(value / 100) / 10}k` : `${Math.round(value / 1e5) / 10}M`);

function rulesPart() {
  const search = h("input", { type: "search", placeholder: "rule, file, what it says", "aria-label": "Filter rules", oninput: () => renew() });
  const unused = h("input", { type: "checkbox", onchange: () => renew() });
  const says = (row) => store.ruleTexts.get(row.rule) ?? "";
  const does = (row) => `${row.action}${row.log ? ", log" : ""}${row.audit ? ", audit" : ""}`;
  const table = new Table({
    label: "Rules",
    key: (row) => `${row.vni}|${row.rule}`,
    empty: "no rules that fit",
    columns: [
      { key: "rule", title: "Rule", width: "minmax(10em, 1.4fr)", few: "minmax(0, 1fr)", text: (row) => row.rule },
      { key: "does", title: "Does", width: "7em", text: does, node: (row) => h("span", { class: row.audit ? "verdict audit" : "" }, does(row)), sort: does },
      { key: "says", title: "Says", width: "minmax(10em, 2fr)", low: true, text: says },
      { key: "flows", title: "Flows", width: "5em", kind: "num", down: true, text: (row) => number(row.flows), sort: (row) => row.flows },
      { key: "packets", title: "Packets", width: "6em", kind: "num", low: true, down: true, text: (row) => number(row.packets), sort: (row) => row.packets },
      { key: "bytes", title: "Bytes", width: "6em", kind: "num", low: true, down: true, text: (row) => bytes(row.bytes), sort: (row) => row.bytes },
      { key: "deny", title: "Would deny", width: "7em", kind: "num", low: true, down: true, text: (row) => number(row.would_deny), sort: (row) => row.would_deny },
      { key: "last", title: "Last hit", width: "7em", low: true, text: (row) => (row.last_s === null ? "never" : `${duration(row.last_s)} ago`), sort: (row) => row.last_s ?? Infinity },
      { key: "at", title: "Line", width: "minmax(8em, 1.4fr)", low: true, text: (row) => row.at, sort: (row) => row.at },
    ],
    open: (row, focus) => showDetail("Rule", [ruleFacts("", row), facts([["Network", `${store.network(row.vni)?.network ?? ""} VNI ${row.vni}`], ["Does", does(row)], ["Flows", number(row.flows)], ["Packets", `${number(row.packets)}, ${bytes(row.bytes)}`], ["Would deny", row.would_deny ? count(row.would_deny, "packet") : null], ["First hit", duration(row.first_s)], ["Last hit", duration(row.last_s)]])], { focus }),
  });
  const element = h("section", { class: "part table-view", "aria-labelledby": "rules-title" }, h("div", { class: "bar" }, h("h2", { id: "rules-title" }, "Rules"), search, h("label", {}, unused, " only those never hit")), table.element);
  const renew = throttled(400, () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    table.set(store.rules.filter((row) => (!unused.checked || row.last_s === null) && wanted.every((word) => [row.rule, row.at, says(row)].some((text) => text.toLowerCase().includes(word)))));
  });
  return {
    element,
    show: () => renew(),
    hide: () => {},
    changed(topics) {
      if (topics.has("rules") || topics.has("networks")) renew();
    },
  };
}

function stagedPart() {
  const said = h("div");
  const path = h("input", { id: "stage-path", placeholder: "/etc/eastgate/next.toml", required: true });
  const problem = h("pre", { class: "error", role: "alert", hidden: true });
  const form = h("form", { class: "bar", onsubmit: stage }, h("label", { for: "stage-path" }, "File on the host "), path, h("button", { type: "submit" }, "Try it beside the one in force…"));
  const drop = h("button", { type: "button", onclick: unstage }, "Throw it away…");
  const table = new Table({
    label: "What the staged version would do otherwise",
    key: (row) => `${row.change}|${row.vni}|${row.proto}|${row.src}|${row.dst}|${row.port}`,
    empty: "nothing that was seen would be otherwise",
    columns: [
      { key: "change", title: "Change", width: "10em", few: "minmax(1.2em, 9em)", text: (row) => row.change, node: (row) => (row.change === "would-be-refused" ? h("span", { class: "verdict refused" }, "✕", h("span", { class: "word" }, " would be refused")) : h("span", { class: "verdict forwarded" }, "→", h("span", { class: "word" }, " would pass"))), sort: (row) => row.change },
      { key: "proto", title: "Proto", width: "4.5em", few: "2.6em", text: (row) => row.proto, sort: (row) => row.proto },
      { key: "from", title: "From", width: "minmax(8em, 1fr)", few: "minmax(0, 1fr)", text: (row) => `${row.from ?? ""} ${row.src}`.trim(), sort: (row) => row.from ?? row.src },
      { key: "to", title: "To", width: "minmax(8em, 1fr)", few: "minmax(0, 1fr)", text: (row) => `${row.to ?? ""} ${end(row.dst, row.port, row.proto)}`.trim(), sort: (row) => row.to ?? row.dst },
      { key: "count", title: "Times", width: "5em", few: "3em", kind: "num", down: true, text: (row) => number(row.count), sort: (row) => row.count },
      { key: "staged", title: "Staged rule", width: "minmax(8em, 1.4fr)", low: true, text: (row) => row.staged.map((rule) => rule.rule).join(" · ") || row.because || "" },
    ],
    open: (row, focus) => showDetail("Staged difference", [
      h("p", {}, row.change === "would-be-refused" ? "It passes, and would be refused." : "It is refused, and would pass."),
      facts([["From", `${row.from ?? ""} ${row.src}`], ["To", `${row.to ?? ""} ${end(row.dst, row.port, row.proto)}`], ["Protocol", row.proto], ["Times", number(row.count)], ["Last", `${duration(row.last_s)} ago`]]),
      ...row.in_force.map((rule) => ruleFacts("In force", rule)), ...row.staged.map((rule) => ruleFacts("Staged", rule)), row.because ? h("p", {}, row.because) : null,
    ], { focus }),
  });
  const element = h("section", { class: "part table-view", "aria-labelledby": "staged-title" }, h("div", { class: "bar" }, h("h2", { id: "staged-title" }, "Staged version"), drop), said, form, problem, table.element);

  async function act(work) {
    problem.hidden = true;
    try {
      await work();
      store.changed("act");
    } catch (error) {
      problem.hidden = false;
      setText(problem, error.message);
    }
  }

  async function stage(event) {
    event.preventDefault();
    const config = path.value.trim();
    if (!(await confirmed("Try this version?", `${config} is read by the daemon and held against live traffic. Nothing of it is in force.`, "Try it"))) return;
    await act(async () => {
      await post("stage", { config });
      announce("staged");
    });
  }

  async function unstage() {
    if (!(await confirmed("Throw the staged version away?", "What is in force stays as it is.", "Throw it away"))) return;
    await act(async () => {
      await remove("staged");
      announce("nothing is staged any more");
    });
  }

  function renew() {
    const { staged } = store;
    form.hidden = !may("administer");
    drop.hidden = !may("administer") || !staged?.config;
    fill(said, staged?.config
      ? h("p", {}, h("code", {}, staged.config), `, for ${duration(staged.since_s)}: ${count(staged.flows, "flow")} held against it, ${count(staged.total, "kind")} treated otherwise`)
      : h("p", { class: "dim" }, "Nothing is staged. eastgate policy stage FILE tries a version on live traffic, without putting it in force."));
    table.set(staged?.rows ?? []);
  }
  return {
    element,
    show: renew,
    hide: () => {},
    changed(topics) {
      if (topics.has("staged") || topics.has("role")) renew();
    },
  };
}

export function createPolicy() {
  const parts = { matrix: matrixPart(), rules: rulesPart(), staged: stagedPart() };
  const titles = { matrix: "Matrix", rules: "Rules", staged: "Staged" };
  let shown = "matrix";
  const links = Object.entries(titles).map(([name, title]) => h("a", { href: `#/policy?part=${name}` }, title));
  const room = h("div", { class: "part-room" });
  const element = h("div", { class: "policy-view" }, h("nav", { class: "parts", "aria-label": "Policy" }, links), room);
  return {
    title: "Policy",
    element,
    show(query) {
      parts[shown].hide();
      shown = query.get("part") in parts ? query.get("part") : "matrix";
      Object.keys(titles).forEach((name, at) => links[at].toggleAttribute("aria-current", name === shown));
      links.forEach((link) => { if (link.hasAttribute("aria-current")) link.setAttribute("aria-current", "page"); });
      if (room.firstChild !== parts[shown].element) fill(room, parts[shown].element);
      parts[shown].show(query);
    },
    hide: () => parts[shown].hide(),
    changed: (topics) => parts[shown].changed(topics),
  };
}
