// The page as a whole: who is asked for the token, which view is shown, which keys do what.

import { ApiError, get, hasToken, setToken } from "./api.js";
import { closeDetail, renewDetail } from "./detail.js";
import { announce, byId, fill, h, setText, throttled } from "./dom.js";
import { roleLabel, roleText, setRole } from "./role.js";
import { Keeper, store } from "./store.js";
import { createDrops } from "./view_drops.js";
import { createEvents, createFlows } from "./view_flows.js";
import { createHost } from "./view_host.js";
import { createMap } from "./view_map.js";
import { createPolicy } from "./view_policy.js";
import { createTrace } from "./view_trace.js";

const VIEWS = [
  ["map", "m", createMap],
  ["flows", "f", createFlows],
  ["policy", "p", createPolicy],
  ["drops", "d", createDrops],
  ["trace", "t", createTrace],
  ["events", "e", createEvents],
  ["host", "h", createHost],
];

const KEYS = [
  ["m f p d t e h", "Map, Flows, Policy, Drops, Trace, Events, Host"],
  ["w", "why is it refused: the trace form, from wherever you are"],
  ["/", "to the filter of the view"],
  ["↑ ↓ PgUp PgDn Home End", "through a table, and from cell to cell of the matrix"],
  ["Enter", "tell what is chosen: a flow, its rules and their lines"],
  ["s", "sort a table by its next column"],
  ["← ↑ → ↓", "on the map: from endpoint to endpoint; with Shift it moves"],
  ["+ − 0", "on the map: closer, farther, all of it"],
  ["Esc", "close what was told, back to where it was chosen"],
  ["?", "these keys"],
];

let keeper = null;
let views = null;
let shown = null;

function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  if (shown) views[shown].themed?.();
}

function setUpTheme() {
  const select = byId("theme");
  select.value = localStorage.getItem("eastgate-theme") ?? "auto";
  applyTheme(select.value);
  select.addEventListener("change", () => {
    localStorage.setItem("eastgate-theme", select.value);
    applyTheme(select.value);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => applyTheme(select.value));
}

/** Single keys are shortcuts unless somebody does not want them to be: who speaks to the machine says letters by chance. */
const keysAreOn = () => localStorage.getItem("eastgate-keys") !== "off";

function setUpHelp() {
  const dialog = byId("help");
  const keys = h("input", { type: "checkbox", onchange: (event) => localStorage.setItem("eastgate-keys", event.target.checked ? "on" : "off") });
  keys.checked = keysAreOn();
  fill(dialog,
    h("h2", { id: "help-title" }, "Keys"),
    h("dl", { class: "keys" }, KEYS.flatMap(([keys, text]) => [h("dt", {}, keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, text)])),
    h("label", {}, keys, " letters are shortcuts"),
    h("p", { class: "dim" }, "All that is shown here is to be had on the terminal too: eastgate show flows, show drops, show rules, show matrix, policy staged, trace, observe, status."),
    h("div", { class: "buttons" }, h("button", { type: "button", class: "primary", onclick: () => dialog.close() }, "Close")));
  byId("help-open").addEventListener("click", () => dialog.showModal());
}

/** Asks for the token. It is not sent anywhere but to the daemon that this page came from. */
function askForToken(problem = "") {
  keeper?.end();
  keeper = null;
  document.body.classList.add("signed-out");
  for (const id of ["nav", "scope", "role", "sign-out", "health", "trouble"]) byId(id).hidden = true;
  closeDetail();
  shown = null;
  const token = h("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "token-help" });
  const keep = h("input", { type: "checkbox", id: "keep" });
  const error = h("p", { class: "error", role: "alert", hidden: !problem }, problem);
  const button = h("button", { type: "submit", class: "primary" }, "Open");
  const submitted = async (event) => {
    event.preventDefault();
    setToken(token.value, keep.checked);
    button.disabled = true;
    try {
      await begin();
    } catch (failed) {
      if (!(failed instanceof ApiError)) throw failed;
      setToken("", false);
      error.hidden = false;
      setText(error, failed.status === 401 ? "The daemon does not know this token." : failed.message);
      token.focus();
    } finally {
      button.disabled = false;
    }
  };
  fill(byId("view"), h("form", { class: "token-form", onsubmit: submitted, "aria-labelledby": "token-title" },
    h("h2", { id: "token-title" }, "A token is needed"),
    h("label", { for: "token" }, "Token"), token,
    h("p", { id: "token-help", class: "dim" }, "It stays in this tab's memory and is sent to this daemon alone. Without one there is nothing to see here."),
    h("label", { class: "check" }, keep, " keep it until this tab is closed"),
    error, h("div", { class: "buttons" }, button)));
  token.focus();
}

/** Begins with the token that was given; fails where the daemon does not take it. */
async function begin() {
  const told = await whoIs();
  store.clear();
  said = { at: 0, seq: 0 };
  store.status = told.status;
  setRole(told);
  document.body.classList.remove("signed-out");
  const role = byId("role");
  setText(role, roleLabel());
  role.title = `This token ${roleText()}.`;
  for (const id of ["nav", "scope", "role", "sign-out"]) byId(id).hidden = false;
  views ??= Object.fromEntries(VIEWS.map(([name, , create]) => [name, create()]));
  fill(byId("nav"), VIEWS.map(([name, key]) => h("a", { href: `#/${name}`, "aria-keyshortcuts": key, title: `${views[name].title} (${key})` }, views[name].title)));
  keeper = new Keeper(trouble);
  keeper.start();
  route();
  byId("view").focus();
}

async function whoIs() {
  const status = await get("status");
  const token = await get("token").catch((error) => {
    if (error.status === 404) return {};
    throw error;
  });
  return { ...token, status };
}

/** What keeps the page from being up to date */
function trouble(error, seconds) {
  const box = byId("trouble");
  if (!error) {
    box.hidden = true;
    announce("The daemon answers again");
    return;
  }
  if (error.status === 401) {
    setToken("", false);
    askForToken("The daemon does not take this token any more.");
    return;
  }
  box.hidden = false;
  const why = error.status === 429 || error.code === "busy" ? "The daemon is busy, and was asked too often" : error.message;
  fill(box, `${why}: what is shown is as it was. Asking again in ${Math.ceil(seconds)} s. `, h("button", { type: "button", onclick: () => keeper?.wake() }, "Ask now"));
}

/** A key has asked for the view that comes: it gets the focus. */
let byKey = false;

function route() {
  if (!hasToken() || !views) return;
  const [, name = "map", query = ""] = /^#\/(\w+)(?:\?(.*))?$/.exec(location.hash) ?? [];
  const view = name in views ? name : "map";
  const room = byId("view");
  if (shown !== view) {
    if (shown) views[shown].hide?.();
    closeDetail();
    shown = view;
    fill(room, views[view].element);
    room.className = `view-${view}`;
  }
  for (const link of byId("nav").children) {
    if (link.hash === `#/${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${views[view].title} · ${store.status?.host ?? ""} · eastgate`;
  views[view].show(new URLSearchParams(query));
  if (byKey) focusView(view);
  byKey = false;
}

function networks() {
  const select = byId("network");
  const options = [h("option", { value: "" }, "all"), ...store.networks.map((network) => h("option", { value: String(network.vni) }, `${network.network} · ${network.vni}`))];
  fill(select, options);
  select.value = store.vni;
}

/** Milliseconds between two words about what was refused */
const SAID = 30000;
let said = { at: 0, seq: 0 };

/** What was refused of late, for those who do not see it appear */
function sayRefused() {
  const last = [...store.refused.values()].at(-1);
  const now = Date.now();
  if (!last || last.seq <= said.seq || now - said.at < SAID) return;
  const since = said.seq;
  const first = said.at === 0;
  said = { at: now, seq: last.seq };
  if (first) return;
  let kinds = 0;
  for (const event of store.refused.values()) if (event.seq > since) kinds += 1;
  announce(`refused of late: ${kinds} ${kinds === 1 ? "kind of packet" : "kinds of packets"}, the last from ${last.src_endpoint ?? last.src} to ${last.dst_endpoint ?? last.dst}${last.dport ? ` port ${last.dport}` : ""}`);
}

const renewed = throttled(200, () => {
  const { status } = store;
  if (status) {
    setText(byId("host"), status.host);
    const health = byId("health");
    health.hidden = false;
    const bad = status.problems.length;
    health.className = `health ${bad ? "bad" : "good"}`;
    setText(health, bad ? `✕ ${bad === 1 ? "1 problem" : `${bad} problems`}` : "✓ well");
    health.title = status.problems.join("\n");
  }
  renewDetail();
});

store.addEventListener("change", ({ detail }) => {
  const topics = new Set(detail);
  if (topics.has("act")) keeper?.again();
  if (topics.has("networks")) networks();
  if (topics.has("events")) sayRefused();
  if (shown) views[shown].changed(topics);
  renewed();
});

byId("network").addEventListener("change", (event) => {
  store.vni = event.target.value;
  const { status, networks: known, ruleTexts } = store;
  store.clear();
  Object.assign(store, { status, networks: known, ruleTexts });
  keeper?.end();
  keeper = new Keeper(trouble);
  keeper.start();
  store.changed("scope", "endpoints", "flows", "drops", "events", "rules", "staged");
});

byId("sign-out").addEventListener("click", () => {
  setToken("", false);
  askForToken();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "Escape") {
    if (closeDetail() && shown) views[shown].escaped?.();
    else if (typing) typing.blur();
    return;
  }
  if (typing || event.key.length > 1 || !keysAreOn()) return;
  if (event.key === "?") {
    event.preventDefault();
    byId("help").showModal();
    return;
  }
  if (!keeper) return;
  if (event.key === "/") {
    const search = byId("view").querySelector("input[type=search]");
    if (search) {
      event.preventDefault();
      search.focus();
    }
    return;
  }
  const name = event.key === "w" ? "trace" : VIEWS.find(([, key]) => key === event.key)?.[0];
  if (!name || event.target.closest("canvas") && ["0"].includes(event.key)) return;
  event.preventDefault();
  if (location.hash === `#/${name}`) {
    focusView(name);
    return;
  }
  // With the view, and not a moment later, when another key may already have been pressed there.
  byKey = true;
  location.hash = `#/${name}`;
});

function focusView(name) {
  if (views[name].focus) views[name].focus();
  else byId("view").focus();
}

/** Names that can be completed where an endpoint is asked for */
const names = h("datalist", { id: "endpoint-names" });
document.body.append(names);
const named = throttled(2000, () => fill(names, [...store.endpoints.values()].slice(0, 500).map((row) => h("option", { value: row.endpoint }, row.addresses[0] ?? ""))));
store.addEventListener("change", ({ detail }) => { if (detail.includes("endpoints")) named(); });

addEventListener("hashchange", route);
setUpTheme();
setUpHelp();
if (hasToken()) begin().catch((error) => askForToken(error.status === 401 ? "" : error.message));
else askForToken();
