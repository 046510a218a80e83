// Live flows and what has happened, as tables.

import { eventDetail, flowDetail } from "./detail.js";
import { VERDICTS, bytes, count, end, h, number, setText, throttled, verdict } from "./dom.js";
import { store } from "./store.js";
import { Table } from "./table.js";

const nameOf = (vni, address) => store.at(vni, address)?.endpoint ?? "";

const rulesOf = (flow) => [flow.egress_rule?.rule, flow.ingress_rule?.rule].filter(Boolean).join(" · ");

function fits(wanted, texts) {
  return wanted.every((word) => texts.some((text) => text && String(text).toLowerCase().includes(word)));
}

const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);

export function createFlows() {
  const search = h("input", { type: "search", placeholder: "endpoint, address, port, protocol, rule", "aria-label": "Filter flows", oninput: () => renew() });
  const which = h("select", { "aria-label": "Verdict", onchange: () => renew() }, h("option", { value: "" }, "all verdicts"), Object.entries(VERDICTS).filter(([kind]) => kind !== "refused").map(([kind, { word }]) => h("option", { value: kind }, word)));
  const tells = h("p", { class: "dim", role: "status" });
  const table = new Table({
    label: "Live flows",
    key: (row) => row.key,
    empty: "no flows that fit",
    columns: [
      { key: "verdict", title: "Verdict", width: "9em", few: "minmax(1.2em, 5.5em)", text: (row) => store.verdictOf(row), node: (row) => verdict(store.verdictOf(row)), sort: (row) => store.verdictOf(row) },
      { key: "proto", title: "Proto", width: "4.5em", few: "2.6em", text: (row) => row.proto, sort: (row) => row.proto },
      { key: "from", title: "From", width: "minmax(9em, 1.4fr)", few: "minmax(0, 1fr)", text: (row) => `${nameOf(row.vni, row.src)} ${end(row.src, row.sport, row.proto)}`.trim(), sort: (row) => nameOf(row.vni, row.src) + row.src },
      { key: "to", title: "To", width: "minmax(9em, 1.4fr)", few: "minmax(0, 1fr)", text: (row) => `${nameOf(row.vni, row.dst)} ${end(row.dst, row.dport, row.proto)}`.trim(), sort: (row) => nameOf(row.vni, row.dst) + row.dst },
      { key: "state", title: "State", width: "7em", low: true, text: (row) => row.state, sort: (row) => row.state },
      { key: "packets", title: "Packets", width: "6em", kind: "num", low: true, down: true, text: (row) => number(row.packets + row.reply_packets), sort: (row) => row.packets + row.reply_packets },
      { key: "bytes", title: "Bytes", width: "6em", kind: "num", low: true, down: true, text: (row) => bytes(row.bytes + row.reply_bytes), sort: (row) => row.bytes + row.reply_bytes },
      { key: "rule", title: "Rules", width: "minmax(8em, 1.6fr)", low: true, text: rulesOf, sort: rulesOf },
    ],
    open: flowDetail,
  });
  const element = h("section", { class: "table-view", "aria-labelledby": "flows-title" }, h("div", { class: "bar" }, h("h2", { id: "flows-title" }, "Flows"), search, which, tells), table.element);

  const renew = throttled(400, () => {
    const wanted = words(search.value);
    const rows = [];
    for (const flow of store.flows.values()) {
      if (which.value && store.verdictOf(flow) !== which.value) continue;
      if (wanted.length && !fits(wanted, [flow.proto, end(flow.src, flow.sport, flow.proto), end(flow.dst, flow.dport, flow.proto), flow.state, nameOf(flow.vni, flow.src), nameOf(flow.vni, flow.dst), flow.egress_rule?.rule, flow.ingress_rule?.rule])) continue;
      rows.push(flow);
    }
    table.set(rows);
    const kept = store.flowTotal > store.flows.size + 50 ? `, of ${number(store.flowTotal)} (choose a network)` : "";
    setText(tells, `${count(rows.length, "flow")}${kept}`);
  });
  return {
    title: "Flows",
    element,
    show(query) {
      if (query.has("text")) search.value = query.get("text");
      renew();
    },
    changed(topics) {
      if (["flows", "endpoints", "staged"].some((topic) => topics.has(topic))) renew();
    },
  };
}

const kindOf = (event) => (event.verdict === "dropped" ? "refused" : event.verdict);

const SAID = { begun: "began", ended: "ended", denied: "refused", dropped: "dropped", "would-be-denied": "would be refused" };

export function createEvents() {
  let held = null;
  const search = h("input", { type: "search", placeholder: "endpoint, address, port, reason, rule", "aria-label": "Filter events", oninput: () => renew() });
  const which = h("select", { "aria-label": "Verdict", onchange: () => renew() }, h("option", { value: "" }, "all verdicts"), ["forwarded", "audit", "refused"].map((kind) => h("option", { value: kind }, VERDICTS[kind].word)));
  const hold = h("button", { type: "button", "aria-pressed": "false", onclick: () => {
    held = held ? null : [...store.events];
    hold.setAttribute("aria-pressed", String(held !== null));
    setText(hold, held ? "Go on" : "Hold");
    renew();
  } }, "Hold");
  const tells = h("p", { class: "dim" });
  const table = new Table({
    label: "Events, the newest first",
    key: (row) => row.seq,
    empty: "nothing has happened that fits",
    columns: [
      { key: "time", title: "Time", width: "6em", few: "4.6em", text: (row) => new Date(row.time_ms).toLocaleTimeString("en-GB") },
      { key: "verdict", title: "Verdict", width: "8em", few: "minmax(1.2em, 5.5em)", text: (row) => kindOf(row), node: (row) => verdict(kindOf(row)) },
      { key: "what", title: "What", width: "8em", low: true, text: (row) => SAID[row.event] ?? row.event },
      { key: "proto", title: "Proto", width: "4.5em", low: true, text: (row) => row.proto ?? "" },
      { key: "from", title: "From", width: "minmax(9em, 1.3fr)", few: "minmax(0, 1fr)", text: (row) => `${row.src_endpoint ?? ""} ${row.src ? end(row.src, row.sport, row.proto) : row.from ?? ""}`.trim() },
      { key: "to", title: "To", width: "minmax(9em, 1.3fr)", few: "minmax(0, 1fr)", text: (row) => `${row.dst_endpoint ?? ""} ${end(row.dst, row.dport, row.proto)}`.trim() },
      { key: "reason", title: "Reason", width: "8em", low: true, text: (row) => row.reason ?? "" },
      { key: "rule", title: "Rule", width: "minmax(8em, 1.6fr)", low: true, text: (row) => (row.refused_by ?? row.ingress_rule ?? row.egress_rule)?.rule ?? "" },
    ],
    open: eventDetail,
  });
  const element = h("section", { class: "table-view", "aria-labelledby": "events-title" }, h("div", { class: "bar" }, h("h2", { id: "events-title" }, "Events"), search, which, hold, tells), table.element);
  const renew = throttled(500, () => {
    const wanted = words(search.value);
    const all = held ?? store.events;
    const rows = [];
    for (let at = all.length - 1; at >= 0; at -= 1) {
      const event = all[at];
      if (which.value && kindOf(event) !== which.value) continue;
      if (wanted.length && !fits(wanted, [event.proto, end(event.src, event.sport, event.proto), end(event.dst, event.dport, event.proto), event.src_endpoint, event.dst_endpoint, event.reason, event.refused_by?.rule, event.event, event.what])) continue;
      rows.push(event);
    }
    table.set(rows);
    setText(tells, `${count(rows.length, "event")}${store.lost ? `, ${number(store.lost)} lost before` : ""}`);
  });
  return {
    title: "Events",
    element,
    show: () => renew(),
    changed(topics) {
      if (topics.has("events")) renew();
    },
  };
}
