// Elements, and text in them. What the daemon tells is put in as text and never as markup: names are other people's.

/** An element: `h("a", { href: "#", class: "b", onclick: f }, "text", child)`. An attribute that is false or null is left out. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Puts these in place of what is in it. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets its text where that is another. */
export function setText(element, text) {
  const value = text === null || text === undefined ? "" : String(text);
  if (element.textContent !== value) element.textContent = value;
}

export const byId = (id) => document.getElementById(id);

const NUMBER = new Intl.NumberFormat("en");

/** 12,345 */
export const number = (value) => NUMBER.format(value ?? 0);

/** `1 flow`, `2 flows` */
export const count = (value, word, plural = `${word}s`) => `${number(value)} ${value === 1 ? word : plural}`;

/** 1.2 MB */
export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let at = 0;
  let size = value ?? 0;
  while (size >= 1000 && at < units.length - 1) {
    size /= 1000;
    at += 1;
  }
  return `${at === 0 || size >= 100 ? Math.round(size) : size.toFixed(1)} ${units[at]}`;
}

/** How long, in the largest two units, or one */
export function duration(seconds, units = 2) {
  if (seconds === null || seconds === undefined) return "never";
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let left = Math.round(seconds);
  const said = [];
  for (const [unit, size] of parts) {
    const times = Math.floor(left / size);
    left -= times * size;
    if (times > 0) said.push(`${times} ${unit}`);
  }
  return said.slice(0, units).join(" ") || "0 s";
}

/** An address with its port, as it is written */
export function end(address, port, proto) {
  if (!address) return "";
  if (!port || proto === "icmp" || proto === "icmpv6") return address;
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}

/** Says something to those who do not see it. */
export function announce(text) {
  setText(byId("live"), text);
}

/** A place in the configuration, to be copied: `tenants/acme.toml:12:15` */
export function place(at) {
  if (!at) return null;
  const copied = async (event) => {
    const button = event.currentTarget;
    try {
      await navigator.clipboard.writeText(at);
      announce(`copied ${at}`);
      button.textContent = "copied";
    } catch {
      // Without the permission it is selected, to be copied by hand.
      getSelection().selectAllChildren(button.previousElementSibling);
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  };
  return h("span", { class: "place" }, h("code", {}, at), h("button", { type: "button", class: "quiet", "aria-label": `Copy ${at}`, onclick: copied }, "copy"));
}

/** What became of it, as a word with a mark beside its colour */
export const VERDICTS = {
  forwarded: { mark: "→", word: "passes" },
  audit: { mark: "◬", word: "audit" },
  staged: { mark: "◇", word: "staged: refused" },
  refused: { mark: "✕", word: "refused" },
};

export function verdict(kind) {
  const { mark, word } = VERDICTS[kind] ?? { mark: "·", word: kind };
  return h("span", { class: `verdict ${kind}` }, h("span", { "aria-hidden": "true" }, mark), h("span", { class: "word" }, ` ${word}`));
}

/** Names and values, one a line; those without a value are left out. */
export function facts(pairs) {
  const list = h("dl", { class: "facts" });
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "" || value === false) continue;
    list.append(h("dt", {}, name), h("dd", {}, value));
  }
  return list;
}

/** Asks before something is done; true when it is to be done. */
export function confirmed(title, text, action) {
  const dialog = byId("confirm");
  return new Promise((resolve) => {
    const done = (value) => () => { dialog.close(); resolve(value); };
    fill(
      dialog,
      h("h2", { id: "confirm-title" }, title),
      h("p", {}, text),
      h("div", { class: "buttons" }, h("button", { type: "button", onclick: done(false) }, "Cancel"), h("button", { type: "button", class: "danger", onclick: done(true) }, action)),
    );
    dialog.oncancel = () => resolve(false);
    dialog.showModal();
  });
}

/** Calls it once for however many calls there were, no sooner than at the next frame and no more often than that. */
export function throttled(milliseconds, work) {
  let planned = false;
  let last = 0;
  return () => {
    if (planned) return;
    planned = true;
    const wait = Math.max(0, last + milliseconds - performance.now());
    setTimeout(() => requestAnimationFrame(() => {
      planned = false;
      last = performance.now();
      work();
    }), wait);
  };
}
