// What is told of one thing: a flow with its rules and their lines, an endpoint, a pair of endpoints, what was dropped.

import { post } from "./api.js";
import { announce, byId, bytes, confirmed, count, duration, end, facts, fill, h, number, place, verdict } from "./dom.js";
import { store } from "./store.js";
import { may } from "./role.js";

let back = null;
let current = null;

/** Shows it beside what it was chosen from; with `focus`, what comes next from the keyboard goes there. */
export function showDetail(title, parts, { focus = false, again = null } = {}) {
  const panel = byId("detail");
  if (focus || panel.hidden) back = document.activeElement;
  current = again;
  const close = h("button", { type: "button", class: "quiet", onclick: closeDetail }, "Close ", h("kbd", {}, "Esc"));
  const heading = h("h2", { tabindex: "-1", id: "detail-title" }, title);
  fill(panel, h("div", { class: "detail-head" }, heading, close), ...parts);
  panel.hidden = false;
  document.body.classList.add("with-detail");
  if (focus) heading.focus();
}

export function closeDetail() {
  const panel = byId("detail");
  if (panel.hidden) return false;
  panel.hidden = true;
  current = null;
  document.body.classList.remove("with-detail");
  if (panel.contains(document.activeElement) || document.activeElement === document.body) back?.focus?.();
  return true;
}

/** What is shown is told anew, where it has changed. */
export function renewDetail() {
  const panel = byId("detail");
  if (!panel.hidden && current && !panel.contains(document.activeElement)) current();
}

/** A rule with what it says and the line where it stands */
export function ruleFacts(name, rule) {
  if (!rule) return null;
  const text = store.ruleTexts.get(rule.rule);
  return h("div", { class: "rule" }, h("h3", {}, name), h("p", { class: "rule-name" }, rule.rule), text ? h("p", { class: "rule-text" }, h("code", {}, text)) : null, place(rule.at));
}

const named = (vni, address) => store.at(vni, address)?.endpoint ?? null;

const who = (vni, address, port, proto) => {
  const name = named(vni, address);
  return h("span", {}, name ? h("strong", {}, name) : "", name ? " " : "", h("code", {}, end(address, port, proto)));
};

/** Opens the trace with these ends. */
export function traceLink({ vni, proto, src, sport, dst, dport, icmp }) {
  const query = new URLSearchParams();
  const all = { vni, proto, src, sport: sport || "", dst, dport: dport || "", type: icmp?.[0] ?? "", code: icmp?.[1] ?? "" };
  for (const [key, value] of Object.entries(all)) if (value !== "" && value !== null && value !== undefined) query.set(key, value);
  return h("a", { class: "button", href: `#/trace?${query}` }, "Walk this packet");
}

async function endFlow(flow) {
  const filter = { vni: flow.vni, src: flow.src, dst: flow.dst, proto: flow.protoNumber ?? PROTOCOLS[flow.proto] ?? Number(flow.proto) };
  // Of an echo they are its identifier, as `flows/kill` has them too.
  Object.assign(filter, { sport: flow.sport, dport: flow.dport });
  const ends = `${end(flow.src, flow.sport, flow.proto)} to ${end(flow.dst, flow.dport, flow.proto)}`;
  const sure = await confirmed("End this flow?", `Its next packet is decided anew, by the rules in force: VNI ${flow.vni}, ${flow.proto}, ${ends}.`, "End it");
  if (!sure) return;
  try {
    const done = await post("flows/kill", filter);
    announce(`${count(done.count, "flow")} ended`);
    closeDetail();
    store.changed("act");
  } catch (error) {
    announce(error.message);
    byId("detail").append(h("p", { class: "error", role: "alert" }, error.message));
  }
}

/** The numbers of protocols that have names here */
export const PROTOCOLS = { icmp: 1, tcp: 6, udp: 17, icmpv6: 58, sctp: 132 };

export function flowDetail(flow, focus) {
  const { vni } = flow;
  const kind = store.verdictOf(flow);
  const network = store.network(vni);
  const staged = kind === "staged" ? store.staged?.rows.find((row) => row.vni === vni && row.proto === flow.proto && row.src === flow.src && row.dst === flow.dst && row.port === flow.dport) : null;
  const parts = [
    h("p", {}, verdict(kind), ` ${flow.state}`),
    facts([
      ["From", who(vni, flow.src, flow.sport, flow.proto)],
      ["To", who(vni, flow.dst, flow.dport, flow.proto)],
      ["Protocol", flow.proto],
      ["Network", network ? `${network.network}, VNI ${vni}` : `VNI ${vni}`],
      ["Sent", `${count(flow.packets, "packet")}, ${bytes(flow.bytes)}`],
      ["Replies", `${count(flow.reply_packets, "packet")}, ${bytes(flow.reply_bytes)}`],
      ["Carried by", flow.offloaded ? "the kernel's programs" : "the pipeline"],
      ["Forgotten in", duration(flow.expires_s)],
      ["Via", flow.via],
      ["Helper", flow.helper],
      ["Follows from", flow.related ? `${flow.related.helper}: ${end(flow.related.src, flow.related.sport)} → ${end(flow.related.dst, flow.related.dport)}` : null],
    ]),
    ruleFacts("Egress rule", flow.egress_rule),
    ruleFacts("Ingress rule", flow.ingress_rule),
    !flow.egress_rule && !flow.ingress_rule ? h("p", { class: "dim" }, "The rules that admitted it were applied on another host, or are in force no more.") : null,
    ...(staged ? [h("h3", {}, "In the staged version"), ...staged.staged.map((rule) => ruleFacts("would be refused by", rule)), staged.because ? h("p", {}, staged.because) : null] : []),
    h("div", { class: "buttons" }, traceLink(flow), may("operate") ? h("button", { type: "button", onclick: () => endFlow(flow) }, "End this flow…") : null),
  ];
  showDetail("Flow", parts, { focus, again: () => store.flows.has(flow.key) && flowDetail(flow, false) });
}

/** What was refused, as an event tells it */
export function eventDetail(event, focus) {
  const parts = [
    h("p", {}, verdict(event.verdict === "dropped" ? "refused" : event.verdict), ` ${event.text ?? event.event}`),
    facts([
      ["When", new Date(event.time_ms).toLocaleTimeString()],
      ["From", event.src ? who(event.vni, event.src, event.sport, event.proto) : event.from],
      ["To", event.dst ? who(event.vni, event.dst, event.dport, event.proto) : null],
      ["Protocol", event.proto],
      ["What", event.what],
      ["Reason", event.reason],
      ["State", event.state],
      ["Came from", event.from],
      ["Source MAC", event.src_mac],
      ["Packets", event.packets === undefined ? null : number(event.packets)],
      ["Lasted", event.lasted_ms === undefined ? null : duration(event.lasted_ms / 1000)],
      ["Network", event.network ? `${event.network}, VNI ${event.vni}` : null],
    ]),
    ruleFacts("Refused by", event.refused_by),
    ruleFacts("Egress rule", event.egress_rule),
    ruleFacts("Ingress rule", event.ingress_rule),
    event.src && event.dst && event.proto ? h("div", { class: "buttons" }, traceLink(event)) : null,
  ];
  showDetail(event.verdict === "dropped" ? "What was refused" : "Event", parts, { focus });
}

/** The ends of a packet in the words of the daemon: `tcp 10.1.0.11:37436 -> 10.1.0.21:22` */
export function packetOf(text) {
  const [, proto, from, to] = /^(\S+) (\S+) -> (\S+)/.exec(text ?? "") ?? [];
  if (!from || !to) return null;
  const split = (one) => {
    const [, v6, port6] = /^\[([0-9a-f:.]+)\](?::(\d+))?$/.exec(one) ?? [];
    if (v6) return [v6, Number(port6 ?? 0)];
    const [, v4, port4] = /^(\d+\.\d+\.\d+\.\d+)(?::(\d+))?$/.exec(one) ?? [];
    return v4 ? [v4, Number(port4 ?? 0)] : [one, 0];
  };
  const [[src, sport], [dst, dport]] = [split(from), split(to)];
  return { proto, src, sport, dst, dport };
}

export function dropDetail(row, focus, audit = false) {
  const packet = packetOf(row.last);
  const recent = row.recent.length > 1
    ? h("table", { class: "plain" }, h("caption", {}, `${count(row.kinds, "different frame")}, the latest first`), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Frame"), h("th", { scope: "col", class: "num" }, "Times"), h("th", { scope: "col", class: "num" }, "Ago"))),
        h("tbody", {}, row.recent.map((one) => h("tr", {}, h("td", {}, h("code", {}, one.what)), h("td", { class: "num" }, number(one.frames)), h("td", { class: "num" }, duration(one.last_s))))))
    : null;
  const parts = [
    h("p", {}, verdict(audit ? "audit" : "refused"), ` ${audit ? "it passed, and would have been refused: " : ""}${row.text}`),
    ruleFacts(audit ? "Would be refused by" : "Refused by", row.rule ? { rule: row.rule, at: row.at } : null),
    facts([
      ["Reason", row.reason],
      ["Last", row.last ? h("code", {}, row.last) : null],
      ["Ago", duration(row.last_s)],
      ["From", packet && row.vni ? named(row.vni, packet.src) : null],
      ["To", packet && row.vni ? named(row.vni, packet.dst) : null],
      ["Came from", row.from],
      ["Network", row.vni ? `${store.network(row.vni)?.network ?? ""} VNI ${row.vni}` : null],
      ["Frames", `${number(row.frames)}, ${bytes(row.bytes)}`],
      ["MACs", row.src_mac ? `${row.src_mac} → ${row.dst_mac}` : null],
    ]),
    recent,
    packet && row.vni ? h("div", { class: "buttons" }, traceLink({ vni: row.vni, ...packet })) : null,
  ];
  showDetail(audit ? "What passed in audit" : "What was refused", parts, { focus });
}
