// Why was it refused? A packet that nobody sends is walked through the path, step by step, and what was refused like it is told beside.

import { ApiError, get, post } from "./api.js";
import { PROTOCOLS, dropDetail } from "./detail.js";
import { announce, duration, fill, h, number, place, setText } from "./dom.js";
import { store } from "./store.js";

/** Of what was refused, so much is offered to be walked. */
const LATEST = 12;

const WITH_PORTS = ["tcp", "udp", "sctp"];

/** An address as it was typed, or the first of the endpoint that was named, of the family of the other end */
function addressOf(text, vni, like) {
  const wanted = text.trim();
  if (/^[0-9a-fA-F:.]+$/.test(wanted) && (wanted.includes(".") || wanted.includes(":"))) return wanted;
  const named = [...store.endpoints.values()].find((row) => String(row.vni) === String(vni) && (row.endpoint === wanted || row.endpoint.split("/")[1] === wanted));
  if (!named) return null;
  const isV6 = like?.includes(":") ?? false;
  return named.addresses.find((address) => address.includes(":") === isV6) ?? named.addresses[0] ?? null;
}

function stepElement(step, last) {
  const kind = { pass: "pass", drop: "drop" }[step.result] ?? "note";
  const said = { pass: "passes", drop: "refused", note: "note" }[kind];
  return h("li", { class: `step ${kind}${last ? " last" : ""}` },
    h("span", { class: "node", "aria-hidden": "true" }, { pass: "✓", drop: "✕", note: "i" }[kind]),
    h("div", { class: "step-text" },
      h("p", {}, h("strong", {}, step.step), " ", h("span", { class: `said ${kind}` }, said)),
      h("p", {}, step.text),
      place(step.at),
      (step.near ?? []).length ? h("ul", { class: "near", "aria-label": "Rules that came close" }, step.near.map((near) => h("li", {}, near))) : null));
}

/** The walk: from host to host, with the tunnel in between */
function walk(report) {
  const legs = [];
  for (const step of report.steps) {
    // What no host takes, such as an answer, is told where the packet is.
    if (legs.length === 0 || (step.host && legs.at(-1).host !== step.host)) legs.push({ host: step.host, steps: [] });
    legs.at(-1).steps.push(step);
  }
  const last = report.steps.at(-1);
  return h("ol", { class: "walk", "aria-label": "The walk, host by host" }, legs.map((leg, at) => h("li", { class: "leg" },
    h("h4", {}, at > 0 ? h("span", { class: "tunnel" }, "tunnel → ") : null, leg.host),
    h("ol", { class: "steps" }, leg.steps.map((step) => stepElement(step, step === last))))));
}

export function createTrace() {
  const field = (name, label, attributes, more) => h("div", { class: `field ${more ?? ""}` }, h("label", { for: `trace-${name}` }, label), attributes.options ? h("select", { id: `trace-${name}`, name, ...attributes, options: null }, attributes.options) : h("input", { id: `trace-${name}`, name, autocomplete: "off", spellcheck: "false", ...attributes }));
  const protocols = [...Object.keys(PROTOCOLS)].sort((one) => (one === "tcp" ? -1 : 0)).map((name) => h("option", { value: name }, name));
  const result = h("section", { class: "trace-result", "aria-live": "off" });
  const problem = h("p", { class: "error", role: "alert", hidden: true });
  const form = h("form", { class: "trace-form", "aria-labelledby": "trace-title", onsubmit: submitted, onchange: shape },
    h("h2", { id: "trace-title" }, "Why is it refused?"),
    h("p", { class: "dim" }, "Say who speaks to whom. The packet is not sent: the daemon tells each step that it would take, and the rule that decides."),
    field("vni", "Network", { options: [] }),
    field("proto", "Protocol", { options: protocols }),
    field("src", "From", { list: "endpoint-names", required: true, placeholder: "acme/web1 or 10.1.0.11" }),
    field("sport", "Source port", { inputmode: "numeric", pattern: "[0-9]*", placeholder: "40000" }, "ports"),
    field("dst", "To", { list: "endpoint-names", required: true, placeholder: "acme/db1 or 10.1.0.21" }),
    field("dport", "Port", { inputmode: "numeric", pattern: "[0-9]*", placeholder: "22" }, "ports"),
    field("type", "ICMP type", { inputmode: "numeric", pattern: "[0-9]*", placeholder: "8" }, "icmp"),
    field("code", "ICMP code", { inputmode: "numeric", pattern: "[0-9]*", placeholder: "0" }, "icmp"),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Walk it")),
    problem);
  const element = h("div", { class: "trace-view" }, form, result);

  /** Before anything is walked: what was refused of late, to be walked by a choice */
  function suggest() {
    if (walked) return;
    const latest = [...store.refused.values()].filter((event) => event.proto in PROTOCOLS).slice(-LATEST).reverse();
    const query = (event) => new URLSearchParams(Object.entries({ vni: event.vni, proto: event.proto, src: event.src, sport: event.sport, dst: event.dst, dport: event.dport, type: event.icmp?.[0], code: event.icmp?.[1] }).filter(([, value]) => value !== undefined && value !== 0));
    const key = latest.map((event) => event.seq).join();
    if (result.key === key && result.hasChildNodes()) return;
    result.key = key;
    fill(result, h("h3", {}, "Refused of late"), latest.length === 0
      ? h("p", { class: "dim" }, "Nothing that the daemon remembers. The walk of a packet will be drawn here.")
      : h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ["Packet", "Reason", "Rule"].map((title) => h("th", { scope: "col" }, title)))), h("tbody", {}, latest.map((event) => h("tr", {},
        h("td", {}, h("a", { href: `#/trace?${query(event)}` }, `${event.proto} ${event.src_endpoint ?? event.src} → ${event.dst_endpoint ?? event.dst}${event.dport ? ` port ${event.dport}` : ""}`)),
        h("td", {}, event.reason ?? ""), h("td", {}, event.refused_by?.rule ?? ""))))));
  }

  let walked = false;
  const value = (name) => form.elements[name].value.trim();

  function shape() {
    const proto = value("proto");
    for (const part of form.querySelectorAll(".field.ports")) part.hidden = !WITH_PORTS.includes(proto);
    for (const part of form.querySelectorAll(".field.icmp")) part.hidden = !proto.startsWith("icmp");
  }

  function networks() {
    const select = form.elements.vni;
    const before = select.value || store.vni;
    fill(select, store.networks.map((network) => h("option", { value: String(network.vni) }, `${network.network} · ${network.vni}`)));
    if ([...select.options].some((option) => option.value === before)) select.value = before;
  }

  function fail(text) {
    problem.hidden = false;
    setText(problem, text);
  }

  async function submitted(event) {
    event?.preventDefault();
    problem.hidden = true;
    const [vni, proto] = [value("vni"), value("proto")];
    const to = addressOf(value("dst"), vni, null);
    const src = addressOf(value("src"), vni, to);
    const dst = addressOf(value("dst"), vni, src);
    if (!src || !dst) {
      fail(`${src ? value("dst") : value("src")} is neither an address nor an endpoint of this network`);
      form.elements[src ? "dst" : "src"].focus();
      return;
    }
    const packet = { vni: Number(vni), proto: PROTOCOLS[proto], src, dst };
    if (WITH_PORTS.includes(proto)) Object.assign(packet, { sport: Number(value("sport") || 40000), dport: Number(value("dport") || 0) });
    if (proto.startsWith("icmp")) packet.icmp = [Number(value("type") || (proto === "icmp" ? 8 : 128)), Number(value("code") || 0)];
    walked = true;
    fill(result, h("p", { class: "dim" }, "walking…"));
    try {
      show(await post("trace", packet), packet);
    } catch (error) {
      fill(result);
      walked = false;
      if (!(error instanceof ApiError)) throw error;
      fail(error.message);
    }
  }

  async function show(report, packet) {
    const passes = ["forwarded", "answered"].includes(report.verdict);
    const refusing = report.steps.findLast((step) => step.result === "drop");
    const heading = h("h3", { tabindex: "-1", class: `outcome ${passes ? "pass" : "drop"}`, id: "trace-outcome" }, passes ? "✓ It passes" : `✕ It is refused: ${report.verdict}`);
    const seen = h("div");
    fill(result,
      heading,
      h("p", {}, h("code", {}, report.packet)),
      refusing ? h("div", { class: "because" }, h("p", {}, refusing.text), place(refusing.at)) : null,
      walk(report),
      report.to_pass?.length ? h("div", { class: "remedy" }, h("h3", {}, report.to_pass.length > 1 ? "To let it pass, all of these" : "To let it pass"), h("ul", {}, report.to_pass.map((remedy) => h("li", {}, h("p", {}, `in ${remedy.place}`), h("pre", {}, h("code", {}, remedy.rule)), place(remedy.at))))) : null,
      seen);
    heading.focus();
    announce(`${heading.textContent}. ${refusing?.text ?? ""} ${refusing?.at ?? ""}`);
    const answer = await get("drops", { vni: packet.vni, address: packet.dst, proto: packet.proto, port: packet.dport || "", limit: 20 }).catch(() => null);
    const rows = answer?.drops.filter((row) => row.recent.some((one) => one.what.includes(packet.src)) || row.last?.includes(packet.src)) ?? [];
    if (rows.length === 0) return;
    fill(seen, h("h3", {}, "What was really refused between them"), h("table", { class: "plain" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Reason"), h("th", { scope: "col", class: "num" }, "Frames"), h("th", { scope: "col", class: "num" }, "Ago"), h("th", { scope: "col" }, "Rule"))),
      h("tbody", {}, rows.map((row) => h("tr", {}, h("td", {}, h("button", { type: "button", class: "link", onclick: () => dropDetail(row, true) }, row.reason)), h("td", { class: "num" }, number(row.frames)), h("td", { class: "num" }, duration(row.last_s)), h("td", {}, row.rule ?? "", " ", place(row.at)))))));
  }

  return {
    title: "Trace",
    element,
    show(query) {
      networks();
      if (query.has("vni")) {
        if (![...form.elements.vni.options].some((option) => option.value === query.get("vni"))) form.elements.vni.append(h("option", { value: query.get("vni") }, `VNI ${query.get("vni")}`));
        for (const name of ["vni", "proto", "src", "sport", "dst", "dport", "type", "code"]) if (query.has(name)) form.elements[name].value = query.get(name);
        shape();
        if (query.has("src") && query.has("dst")) submitted();
      }
      shape();
      suggest();
    },
    changed(topics) {
      if (topics.has("networks")) networks();
      if (topics.has("events")) suggest();
    },
    focus: () => form.elements.src.focus(),
  };
}
