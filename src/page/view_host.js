// The host: how the daemon is, its ports, and what may be done to it.

import { post } from "./api.js";
import { announce, bytes, confirmed, count, duration, facts, fill, h, number } from "./dom.js";
import { isConfined, may, roleText } from "./role.js";
import { store } from "./store.js";

export function createHost() {
  const told = h("div", { class: "host-facts" });
  const ports = h("tbody");
  const outcome = h("pre", { class: "outcome-text", role: "status", hidden: true });
  const reload = h("button", { type: "button", onclick: () => act("Put the edited configuration in force?", "The file is read again, whole or not at all. Flows that it does not allow any more end.", "Reload", () => post("reload"), reloaded) }, "Reload the configuration…");
  const flush = h("button", { type: "button", onclick: () => act("Forget all learned MACs?", "Until they are heard again, frames to them are flooded or dropped. Configured ones stay.", "Forget them", () => post("fdb/flush", store.vni ? { vni: Number(store.vni) } : {}), (done) => `${count(done.count, "learned entry", "learned entries")} forgotten`) }, "Forget learned MACs…");
  const kill = h("button", { type: "button", onclick: () => act(`End all flows${store.vni ? ` of VNI ${store.vni}` : ""}?`, "The next packet of each is decided anew.", "End them", () => post("flows/kill", store.vni ? { vni: Number(store.vni) } : { all: true }), (done) => `${count(done.count, "flow")} ended`) }, "End all flows…");
  const allowed = h("p", { class: "dim" });
  const element = h("div", { class: "host-view" },
    h("section", { "aria-labelledby": "host-title" }, h("h2", { id: "host-title" }, "Host"), told),
    h("section", { "aria-labelledby": "act-title" }, h("h2", { id: "act-title" }, "What may be done"), allowed, h("div", { class: "buttons" }, reload, flush, kill), outcome),
    h("section", { "aria-labelledby": "ports-title" }, h("h2", { id: "ports-title" }, "Ports"), h("div", { class: "wide" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ["Port", "Endpoint", "VNI", "State", "Note"].map((title) => h("th", { scope: "col", class: title === "VNI" ? "num" : null }, title)))), ports))));

  async function act(title, text, action, work, say) {
    if (!(await confirmed(title, text, action))) return;
    outcome.hidden = false;
    outcome.className = "outcome-text";
    try {
      outcome.textContent = say(await work());
      store.changed("act");
    } catch (error) {
      outcome.className = "outcome-text error";
      outcome.textContent = error.message;
    }
    announce(outcome.textContent);
  }

  function reloaded(done) {
    const kinds = Object.entries(done.changes ?? {}).filter(([, named]) => !Array.isArray(named));
    const lines = kinds.flatMap(([kind, named]) => ["added", "removed", "changed"].flatMap((how) => named[how].map((name) => `${how} ${kind}: ${name}`)));
    const settings = (done.changes?.settings ?? []).map((name) => `changed setting: ${name}`);
    const all = [...settings, ...lines];
    return [`in force as epoch ${done.epoch}${done.in_force_after === undefined ? "" : ` after ${number(done.in_force_after)} ms`}`, ...(all.length ? all : ["nothing is different"]), ...(done.warnings ?? [])].join("\n");
  }

  function renew() {
    const { status } = store;
    reload.hidden = !may("administer");
    [flush.hidden, kill.hidden] = [!may("operate"), !may("operate")];
    allowed.textContent = `Your token ${roleText()}.${may("operate") ? "" : " Changes need a token with the role operate or administer, or the terminal."}`;
    if (!status) return;
    const { vtep, traffic } = status;
    const ofHost = isConfined() ? [] : [
      ["From ports", count(traffic.from_ports, "frame")],
      ["To ports", count(traffic.to_ports, "frame")],
      ["Underlay", `${number(traffic.from_underlay)} in, ${number(traffic.to_underlay)} out`],
      ["Dropped", count(traffic.dropped, "frame")],
      ["In audit", traffic.would_deny ? count(traffic.would_deny, "packet") : null],
      ["Memory", status.memory?.resident ? bytes(status.memory.resident) : null],
    ];
    fill(told,
      status.problems.length ? h("ul", { class: "problems", role: "alert" }, status.problems.map((problem) => h("li", {}, `✕ ${problem}`))) : h("p", { class: "verdict forwarded" }, "✓ nothing is wrong that the daemon knows of"),
      facts([
        ["Host", status.host],
        ["Version", status.version],
        ["Configuration", h("span", {}, h("code", {}, status.config), `, epoch ${status.epoch}, digest `, h("code", {}, status.digest))],
        ["Last reload", status.reload_error ? h("pre", { class: "error" }, `refused: ${status.reload_error}`) : null],
        ["VTEP", `${vtep.address}, UDP ${vtep.port}, on ${vtep.device}${vtep.listening ? "" : ": not listening"}`],
        ["MTU", `underlay ${vtep.mtu}, tenants ${vtep.tenant_mtu}`],
        ["Dataplane", `${status.dataplane}, ${count(status.workers, "worker")}`],
        ["Flows", `${number(status.flows.replied)} replied, ${number(status.flows.unreplied)} unreplied`],
        ...ofHost,
        ["Unprotected", (status.excluded ?? []).join(", ")],
        ["Up", duration(status.uptime_s)],
      ]));
    fill(ports, status.ports.map((port) => h("tr", {}, h("th", { scope: "row" }, port.name || "–"), h("td", {}, port.endpoint), h("td", { class: "num" }, String(port.vni)), h("td", { class: port.state === "forwarding" ? "" : "dim" }, port.state), h("td", {}, port.note ?? ""))));
  }
  return {
    title: "Host",
    element,
    show: renew,
    changed(topics) {
      if (topics.has("status") || topics.has("role")) renew();
    },
  };
}
