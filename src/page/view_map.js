// The map, and beside it the same as a table: endpoints with what they have to do with each other.

import { MapCanvas } from "./canvas.js";
import { closeDetail, eventDetail, flowDetail, showDetail } from "./detail.js";
import { VERDICTS, announce, count, end, facts, h, number, setText, throttled, verdict } from "./dom.js";
import { RECENT, store } from "./store.js";
import { Table } from "./table.js";

const name = (key) => store.endpoints.get(key)?.endpoint ?? key;

const KINDS = ["forwarded", "audit", "staged", "refused"];

/** Live flows and what was refused of late, by the endpoints at both ends */
function linesOf() {
  const pairs = new Map();
  const add = (it, kind) => {
    // Whose the addresses are is found out once.
    if (it.generation !== store.generation) {
      it.generation = store.generation;
      it.ends = [store.at(it.vni, it.src), store.at(it.vni, it.dst)];
    }
    const [from, to] = it.ends;
    if (!from || !to) return;
    const key = (from.number * 1_000_003 + to.number) * KINDS.length + kind;
    const line = pairs.get(key);
    if (line) line.all.push(it);
    else pairs.set(key, { key, from: from.key, to: to.key, kind: KINDS[kind], all: [it] });
  };
  for (const flow of store.flows.values()) add(flow, KINDS.indexOf(store.verdictOf(flow)));
  const since = Date.now() - RECENT;
  for (const event of store.refused.values()) if (event.time_ms >= since) add(event, 3);
  return [...pairs.values()];
}

export function createMap() {
  let lines = [];
  const shown = { forwarded: true, audit: true, staged: true, refused: true };

  const canvas = h("canvas", { class: "map", tabindex: "0", role: "application", "aria-roledescription": "map", "aria-label": "Map of tenants, networks, hosts and endpoints with live flows. Arrow keys go from endpoint to endpoint, Enter tells what it has to do with others, plus and minus zoom. The table beside it has the same.", "aria-describedby": "map-tells" });
  const tells = h("p", { id: "map-tells", class: "map-tells" });
  const picture = new MapCanvas(canvas, {
    choose: (key) => choose(key, false),
    chooseLine: (line) => pairDetail(line, false),
    size: () => picture.setLines(visible()),
  });

  const button = (label, text, work) => h("button", { type: "button", "aria-label": label, title: label, onclick: work }, text);
  const legend = Object.entries(VERDICTS).map(([kind]) => {
    const box = h("input", { type: "checkbox", checked: true, onchange: (event) => { shown[kind] = event.target.checked; draw(); } });
    return h("label", { class: "legend" }, box, verdict(kind), h("span", { class: "tally", id: `tally-${kind}` }));
  });
  const tools = h("div", { class: "map-tools", role: "group", "aria-label": "Map" }, legend, h("span", { class: "zoom" }, button("Zoom out", "−", () => picture.zoom(1 / 1.3)), button("Zoom in", "+", () => picture.zoom(1.3)), button("Show all", "all", () => picture.arrange())));

  const table = new Table({
    label: "Endpoints",
    key: (row) => row.key,
    empty: "no endpoints in this network",
    sort: { key: "name", down: false },
    columns: [
      { key: "name", title: "Endpoint", width: "minmax(7em, 1.3fr)", few: "minmax(0, 1.3fr)", text: (row) => row.endpoint, sort: (row) => row.endpoint },
      { key: "network", title: "Network", width: "minmax(5em, 1fr)", low: true, text: (row) => row.network, sort: (row) => row.network },
      { key: "host", title: "Host", width: "minmax(4em, .7fr)", few: "minmax(0, .8fr)", text: (row) => row.host, sort: (row) => row.host },
      { key: "flows", title: "Flows", width: "4.5em", kind: "num", down: true, text: (row) => number(row.lines ?? 0), sort: (row) => row.lines ?? 0 },
      { key: "refused", title: "Refused", width: "5.5em", kind: "num", down: true, text: (row) => (row.refused ? `✕ ${number(row.refused)}` : "0"), sort: (row) => row.refused ?? 0 },
    ],
    open: (row, byKey) => choose(row.key, byKey),
  });
  const search = h("input", { type: "search", placeholder: "name, address, group, host", "aria-label": "Filter endpoints", oninput: () => list() });
  const element = h("div", { class: "map-view" },
    h("section", { class: "map-area", "aria-label": "Map" }, h("h2", { class: "hidden-text" }, "Map"), tools, canvas, tells),
    h("section", { class: "map-list", "aria-labelledby": "endpoints-title" }, h("div", { class: "bar" }, h("h2", { id: "endpoints-title" }, "Endpoints"), search), table.element));

  const visible = () => lines.filter((line) => shown[line.kind]);

  function draw() {
    const tally = {};
    for (const row of store.endpoints.values()) [row.lines, row.refused] = [0, 0];
    for (const line of lines) {
      tally[line.kind] = (tally[line.kind] ?? 0) + line.all.length;
      for (const key of new Set([line.from, line.to])) {
        const row = store.endpoints.get(key);
        if (!row) continue;
        if (line.kind === "refused") row.refused += line.all.length;
        else row.lines += line.all.length;
      }
    }
    for (const kind of Object.keys(VERDICTS)) {
      const at = element.querySelector(`#tally-${kind}`);
      if (at) setText(at, ` ${number(tally[kind] ?? 0)}`);
    }
    picture.setLines(visible());
    const more = store.flowTotal > store.flows.size + 50 ? ` of ${number(store.flowTotal)}: choose a network to see all of its` : "";
    setText(tells, `${count(store.endpoints.size, "endpoint")}${store.endpointTotal > store.endpoints.size ? ` of ${number(store.endpointTotal)}` : ""}, ${count(store.flows.size, "live flow")}${more}; what was refused in the last five minutes`);
    list();
  }

  function list() {
    const wanted = search.value.trim().toLowerCase();
    const fits = (row) => !wanted || [row.endpoint, row.network, row.host, ...row.addresses, ...row.groups].some((text) => text.toLowerCase().includes(wanted));
    table.set([...store.endpoints.values()].filter(fits));
  }

  function choose(key, byKey) {
    picture.select(key, byKey);
    if (!key) {
      closeDetail();
      return;
    }
    endpointDetail(key, byKey);
  }

  function endpointDetail(key, focus) {
    const row = store.endpoints.get(key);
    if (!row) return;
    const its = lines.filter((line) => line.from === key || line.to === key);
    const order = ["refused", "audit", "staged", "forwarded"];
    its.sort((one, other) => order.indexOf(one.kind) - order.indexOf(other.kind) || other.all.length - one.all.length);
    const peers = its.slice(0, 100).map((line) => h("tr", {},
      h("td", {}, verdict(line.kind)),
      h("td", {}, h("button", { type: "button", class: "link", onclick: () => pairDetail(line, true) }, line.from === key ? `to ${name(line.to)}` : `from ${name(line.from)}`)),
      h("td", { class: "num" }, number(line.all.length))));
    showDetail(row.endpoint, [
      facts([
        ["Network", `${row.network}, VNI ${row.vni}`],
        ["Host", row.host],
        ["Port", row.port],
        ["MAC", h("code", {}, row.mac)],
        ["Addresses", h("span", {}, row.addresses.flatMap((address) => [h("code", {}, address), " "]))],
        ["Groups", row.groups.join(", ") || "none"],
        ["Frames", `${number(row.tx_frames)} sent, ${number(row.rx_frames)} received`],
        ["Unprotected", row.excluded ? "it is carried without policy" : null],
        ["In userspace", row.userspace],
      ]),
      h("h3", {}, "With whom"),
      its.length === 0 ? h("p", { class: "dim" }, "no live flows, and nothing refused of late") : h("table", { class: "plain" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Verdict"), h("th", { scope: "col" }, "Endpoint"), h("th", { scope: "col", class: "num" }, "Flows"))), h("tbody", {}, peers)),
      its.length > 100 ? h("p", { class: "dim" }, `and ${number(its.length - 100)} more: see Flows`) : null,
      h("div", { class: "buttons" }, h("a", { class: "button", href: `#/flows?text=${encodeURIComponent(row.endpoint)}` }, "Its flows"), h("a", { class: "button", href: `#/policy?endpoint=${encodeURIComponent(row.endpoint)}&vni=${row.vni}` }, "Whom it may reach")),
    ], { focus, again: () => endpointDetail(key, false) });
  }

  function pairDetail(line, focus) {
    if (line.all.length === 1) {
      if (line.kind === "refused") eventDetail(line.all[0], focus);
      else flowDetail(line.all[0], focus);
      return;
    }
    const open = (it) => (line.kind === "refused" ? eventDetail(it, true) : flowDetail(it, true));
    const rows = line.all.slice(0, 100).map((it) => h("tr", {},
      h("td", {}, h("button", { type: "button", class: "link", onclick: () => open(it) }, `${it.proto} ${end(it.src, it.sport, it.proto)} → ${end(it.dst, it.dport, it.proto)}`)),
      h("td", {}, (it.ingress_rule ?? it.egress_rule ?? it.refused_by)?.rule ?? "")));
    showDetail(`${name(line.from)} → ${name(line.to)}`, [
      h("p", {}, verdict(line.kind), ` ${count(line.all.length, line.kind === "refused" ? "kind of packet" : "flow", line.kind === "refused" ? "kinds of packets" : "flows")}`),
      h("table", { class: "plain" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Flow"), h("th", { scope: "col" }, "Rule"))), h("tbody", {}, rows)),
      line.all.length > 100 ? h("p", { class: "dim" }, `and ${number(line.all.length - 100)} more: see Flows`) : null,
    ], { focus });
  }

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way && event.shiftKey) picture.pan(-way[0] * 60, -way[1] * 60);
    else if (way) {
      const key = picture.neighbor(...way);
      picture.select(key, true);
      const row = store.endpoints.get(key);
      if (row) announce(`${row.endpoint}, ${row.network}, on ${row.host}, ${count(row.lines ?? 0, "flow")}, ${number(row.refused ?? 0)} refused`);
    } else if (event.key === "Enter" && picture.selected) endpointDetail(picture.selected, true);
    else if (event.key === "+" || event.key === "=") picture.zoom(1.3);
    else if (event.key === "-") picture.zoom(1 / 1.3);
    else if (event.key === "0") picture.arrange();
    else return;
    event.preventDefault();
  });

  const renew = throttled(700, () => {
    lines = linesOf();
    draw();
  });
  return {
    title: "Map",
    element,
    show() {
      picture.readColors();
      picture.setEndpoints([...store.endpoints.values()]);
      renew();
    },
    themed: () => picture.readColors(),
    changed(topics) {
      if (topics.has("endpoints")) picture.setEndpoints([...store.endpoints.values()]);
      if (["endpoints", "endpoint-counts", "flows", "events", "staged"].some((topic) => topics.has(topic))) renew();
    },
    escaped: () => picture.select(null),
  };
}
