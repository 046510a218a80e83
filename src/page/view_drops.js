// What was dropped: by reason over time, and row by row.

import { dropDetail } from "./detail.js";
import { duration, fill, h, number, throttled } from "./dom.js";
import { store } from "./store.js";
import { Table } from "./table.js";

/** Colours of the chart that have names in the style */
const SERIES = 6;
const SPAN = 10 * 60 * 1000;
const BARS = 120;

export function createDrops() {
  const canvas = h("canvas", { class: "chart", role: "img", "aria-label": "Frames dropped by reason in the last ten minutes; the table below has the same numbers" });
  const legend = h("tbody");
  const search = h("input", { type: "search", placeholder: "reason, rule, port, address", "aria-label": "Filter drops", oninput: () => renew() });
  const which = h("select", { "aria-label": "Which", onchange: () => renew() }, h("option", { value: "" }, "dropped"), h("option", { value: "audit" }, "passed in audit only"));
  const chatter = h("input", { type: "checkbox", onchange: () => renew() });
  const table = new Table({
    label: "Drops",
    key: (row) => `${row.vni}|${row.reason}|${row.from}|${row.rule}|${row.at}|${row.class}`,
    empty: "nothing was dropped that fits",
    sort: { key: "last", down: false },
    columns: [
      { key: "reason", title: "Reason", width: "minmax(7em, 9em)", few: "minmax(6em, 8.5em)", text: (row) => row.reason, sort: (row) => row.reason },
      { key: "frames", title: "Frames", width: "5.5em", few: "4em", kind: "num", down: true, text: (row) => number(row.frames), sort: (row) => row.frames },
      { key: "last", title: "Ago", width: "5em", few: "3.6em", kind: "num", text: (row) => duration(row.last_s, 1), sort: (row) => row.last_s },
      { key: "what", title: "Last frame", width: "minmax(10em, 2fr)", few: "minmax(0, 1fr)", text: (row) => row.last ?? "", sort: (row) => row.last ?? "" },
      { key: "from", title: "From", width: "minmax(5em, 1fr)", low: true, text: (row) => row.from ?? "", sort: (row) => row.from ?? "" },
      { key: "vni", title: "VNI", width: "5em", kind: "num", low: true, text: (row) => String(row.vni ?? ""), sort: (row) => row.vni ?? 0 },
      { key: "rule", title: "Rule", width: "minmax(9em, 2fr)", low: true, text: (row) => row.rule ?? "", sort: (row) => row.rule ?? "" },
      { key: "at", title: "Line", width: "minmax(7em, 1.4fr)", low: true, text: (row) => row.at ?? "", sort: (row) => row.at ?? "" },
    ],
    open: (row, focus) => dropDetail(row, focus, which.value !== ""),
  });
  const element = h("div", { class: "drops-view" },
    h("section", { class: "over-time", "aria-labelledby": "time-title" },
      h("h2", { id: "time-title" }, "Drops by reason"),
      h("div", { class: "chart-and-legend" }, h("div", {}, canvas, h("p", { class: "dim chart-note" }, "Paler: before the page was opened, as events tell it: the first frame of each kind.")), h("table", { class: "plain" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Reason"), h("th", { scope: "col", class: "num" }, "A second"), h("th", { scope: "col", class: "num" }, "In 10 min"), h("th", { scope: "col", class: "num" }, "In all"))), legend))),
    h("section", { class: "table-view", "aria-labelledby": "drops-title" }, h("div", { class: "bar" }, h("h2", { id: "drops-title" }, "Drops"), which, search, h("label", {}, chatter, " chatter of guests too")), table.element));

  new ResizeObserver(() => draw()).observe(canvas);

  /** Frames of each reason between each two moments */
  function series() {
    const { samples } = store;
    const now = Date.now();
    const from = now - SPAN;
    const bars = Array.from({ length: BARS }, () => ({}));
    const sums = {};
    for (let at = 1; at < samples.length; at += 1) {
      const [before, after] = [samples[at - 1], samples[at]];
      if (after.time < from) continue;
      const bar = bars[Math.min(BARS - 1, Math.floor(((after.time - from) / SPAN) * BARS))];
      for (const [reason, frames] of Object.entries(after.totals)) {
        // A daemon that began again counts from nothing.
        const more = Math.max(0, frames - (before.totals[reason] ?? 0));
        if (more === 0) continue;
        bar[reason] = (bar[reason] ?? 0) + more;
        sums[reason] = (sums[reason] ?? 0) + more;
      }
    }
    return { bars, sums, before: before(from, bars.length, samples[0]?.time ?? now) };
  }

  /** What events tell of the time before the page was opened: the first frame of each kind, so it was no less than that. */
  function before(from, length, until) {
    const bars = Array.from({ length }, () => ({}));
    for (const event of store.events) {
      if (event.verdict !== "dropped" || event.time_ms < from || event.time_ms >= until) continue;
      const bar = bars[Math.min(length - 1, Math.floor(((event.time_ms - from) / SPAN) * length))];
      bar[event.reason] = (bar[event.reason] ?? 0) + (event.packets ?? 1);
    }
    return bars;
  }

  function draw() {
    const { bars, sums, before: earlier } = series();
    const last = store.samples.at(-1);
    const previous = store.samples.findLast((sample) => last && sample.time < last.time - 8000) ?? store.samples[0];
    const totals = last?.totals ?? {};
    const reasons = Object.keys(totals).sort((one, other) => (sums[other] ?? 0) - (sums[one] ?? 0) || totals[other] - totals[one]);
    const style = getComputedStyle(document.documentElement);
    const color = (at) => style.getPropertyValue(`--series-${Math.min(at, SERIES - 1)}`).trim();
    fill(legend, reasons.map((reason, at) => {
      const passed = last && previous && last !== previous ? (last.time - previous.time) / 1000 : 0;
      const rate = passed ? Math.max(0, totals[reason] - (previous.totals[reason] ?? 0)) / passed : 0;
      return h("tr", {}, h("th", { scope: "row" }, h("span", { class: `key series-${Math.min(at, SERIES - 1)}`, "aria-hidden": "true" }), reason), h("td", { class: "num" }, rate ? rate.toFixed(1) : "0"), h("td", { class: "num" }, number(sums[reason] ?? 0)), h("td", { class: "num" }, number(totals[reason])));
    }), reasons.length ? null : h("tr", {}, h("td", { colspan: 4, class: "dim" }, "nothing was dropped")));
    const ratio = Math.min(2, devicePixelRatio || 1);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const most = Math.max(1, ...[...bars, ...earlier].map((bar) => Object.values(bar).reduce((sum, frames) => sum + frames, 0)));
    const top = nice(most);
    const [left, bottom] = [44, height - 18];
    const room = bottom - 8;
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.fillStyle = style.getPropertyValue("--dim");
    context.strokeStyle = style.getPropertyValue("--line");
    context.textAlign = "right";
    for (const part of [0, 0.5, 1]) {
      const y = Math.round(bottom - room * part) + 0.5;
      context.beginPath();
      context.moveTo(left, y);
      context.lineTo(width, y);
      context.stroke();
      if (part * top === Math.round(part * top)) context.fillText(number(part * top), left - 6, y + 4);
    }
    for (const minutes of width < 460 ? [10, 5, 0] : [10, 8, 6, 4, 2, 0]) {
      const x = left + (width - left) * (1 - minutes / 10);
      context.textAlign = minutes === 0 ? "right" : minutes === 10 ? "left" : "center";
      context.fillText(minutes === 0 ? "now" : `−${minutes} min`, x, height - 4);
    }
    const step = (width - left) / BARS;
    for (const [alpha, all] of [[0.45, earlier], [1, bars]]) all.forEach((bar, at) => {
      context.globalAlpha = alpha;
      let y = bottom;
      reasons.forEach((reason, place) => {
        const high = ((bar[reason] ?? 0) / top) * room;
        if (high === 0) return;
        context.fillStyle = color(place);
        context.fillRect(left + at * step + 0.5, y - high, Math.max(1, step - 1), high);
        y -= high;
      });
    });
    canvas.setAttribute("aria-label", `Frames dropped by reason in the last ten minutes, at most ${number(most)} in five seconds; the table beside it has the numbers`);
  }

  const renew = throttled(500, () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const all = (which.value ? store.audits : store.drops).filter((row) => (chatter.checked || row.class !== "chatter") && (!store.vni || String(row.vni) === store.vni));
    table.set(all.filter((row) => wanted.every((word) => [row.reason, row.text, row.rule, row.at, row.last, row.from].some((text) => text?.toLowerCase().includes(word)))));
    draw();
  });
  return {
    title: "Drops",
    element,
    show: () => renew(),
    themed: () => draw(),
    changed(topics) {
      if (topics.has("drops")) renew();
    },
  };
}

/** The next number that reads well on an axis */
function nice(most) {
  const size = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 4, 6, 10].map((step) => step * size).find((step) => step >= most);
}
