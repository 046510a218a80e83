// The picture of the map. It is drawn in slices that fit into a frame, beside the one that is shown, so that moving it stays smooth however
// much there is; what is under the pointer and what is chosen is drawn on top each time.

import { CHIP, curve, layout, point } from "./layout.js";

/** Lines and chips of a slice: as many as have fitted into frames before, within these bounds. What drawing costs is seen when the frame is late. */
const SLICE = { least: 15, first: 60, most: 400 };
/** A frame that comes later than this after the one before was too much, in milliseconds. */
const LATE = 22;
/** While the map is moved, it is drawn anew no more often than this, in milliseconds. */
const MOVING = 250;
/** Marks are drawn on lines of so few. */
const MARKED = 600;
/** With more lines than this, and smaller than that, those between two hosts are drawn as one. */
const BUNDLED = { lines: 800, scale: 0.5 };
const ORDER = ["forwarded", "staged", "audit", "refused"];

export class MapCanvas {
  constructor(element, { choose, chooseLine, size }) {
    this.element = element;
    this.choose = choose;
    this.chooseLine = chooseLine;
    this.onsize = size;
    this.context = element.getContext("2d");
    [this.front, this.back] = [document.createElement("canvas"), document.createElement("canvas")];
    this.frontView = null;
    this.view = { x: 0, y: 0, scale: 1 };
    this.plan = layout([], 1.6);
    this.lines = [];
    this.selected = null;
    this.hovered = null;
    this.fitted = true;
    this.colors = {};
    this.planned = false;
    this.task = null;
    this.slice = SLICE.first;
    this.curves = new Map();
    this.bundles = [];
    this.pointers = new Map();
    new ResizeObserver(() => this.resize()).observe(element);
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.moved(event));
    for (const over of ["pointerup", "pointercancel"]) element.addEventListener(over, (event) => this.up(event));
    element.addEventListener("pointerleave", () => { this.hovered = null; this.request(); });
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  readColors() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    for (const name of ["bg", "panel", "panel-2", "text", "dim", "line", "line-strong", "accent", ...ORDER]) this.colors[name] = of(name);
    this.font = getComputedStyle(document.body).fontFamily;
    this.redraw();
  }

  /** Other endpoints, or other places of them */
  setEndpoints(rows) {
    this.rows = rows;
    this.plan = layout(rows, this.shape());
    this.curves.clear();
    if (this.selected && !this.plan.places.has(this.selected)) this.selected = null;
    if (this.fitted) this.fit();
    this.redraw();
  }

  /** Lines: `{ from, to, kind, count }` by the keys of endpoints */
  setLines(lines) {
    const ordered = ORDER.map(() => []);
    this.of = new Map();
    const bundles = new Map();
    for (const line of lines) {
      const [from, to] = [this.plan.places.get(line.from), this.plan.places.get(line.to)];
      if (!from || !to) continue;
      let drawn = this.curves.get(line.key);
      if (!drawn) {
        const of = curve(from, to, line.kind);
        const [xs, ys] = [of.filter((_, at) => at % 2 === 0), of.filter((_, at) => at % 2 === 1)];
        drawn = { curve: of, box: [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)] };
        this.curves.set(line.key, drawn);
      }
      line.curve = drawn.curve;
      line.box = drawn.box;
      ordered[ORDER.indexOf(line.kind)].push(line);
      for (const end of line.from === line.to ? [line.from] : [line.from, line.to]) {
        const its = this.of.get(end);
        if (its) its.push(line);
        else this.of.set(end, [line]);
      }
      let bundle = bundles.get(from.host) ?? bundles.set(from.host, new Map()).get(from.host);
      bundle = bundle.get(to.host) ?? bundle.set(to.host, {}).get(to.host);
      bundle[line.kind] = (bundle[line.kind] ?? 0) + line.all.length;
    }
    this.bundles = [];
    for (const [from, ends] of bundles) {
      for (const [to, kinds] of ends) {
        for (const kind of ORDER) if (kinds[kind]) this.bundles.push({ kind, count: kinds[kind], curve: curve(from, to, kind) });
      }
    }
    this.bundles.sort((one, other) => ORDER.indexOf(one.kind) - ORDER.indexOf(other.kind));
    this.lines = ordered.flat();
    if (this.curves.size > 4 * this.lines.length + 1000) this.curves.clear();
    this.redraw();
  }

  shape() {
    return Math.max(0.4, Math.min(3, this.element.clientWidth / Math.max(1, this.element.clientHeight)));
  }

  resize() {
    const { clientWidth, clientHeight } = this.element;
    if (clientWidth === 0 || clientHeight === 0) return;
    this.ratio = Math.min(2, devicePixelRatio || 1);
    for (const canvas of [this.element, this.front, this.back]) {
      canvas.width = Math.round(clientWidth * this.ratio);
      canvas.height = Math.round(clientHeight * this.ratio);
    }
    this.frontView = null;
    if (this.fitted) this.fit();
    this.redraw();
  }

  /** Lays it out anew for the view's shape, and shows all of it. */
  arrange() {
    this.plan = layout(this.rows ?? [], this.shape());
    this.curves.clear();
    this.onsize();
    this.fit();
  }

  fit() {
    const { clientWidth, clientHeight } = this.element;
    const scale = Math.min(1.25, clientWidth / this.plan.width, clientHeight / this.plan.height);
    this.view = { scale, x: (clientWidth - this.plan.width * scale) / 2, y: (clientHeight - this.plan.height * scale) / 2 };
    this.fitted = true;
    this.redraw();
  }

  zoom(by, x = this.element.clientWidth / 2, y = this.element.clientHeight / 2) {
    const scale = Math.max(0.05, Math.min(3, this.view.scale * by));
    const ratio = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * ratio, y: y - (y - this.view.y) * ratio };
    this.fitted = false;
    this.redraw();
  }

  pan(x, y) {
    this.view = { ...this.view, x: this.view.x + x, y: this.view.y + y };
    this.fitted = false;
    this.redraw();
  }

  select(key, reveal = false) {
    this.selected = key;
    const place = key && this.plan.places.get(key);
    if (place && reveal) {
      const { scale, x, y } = this.view;
      const [sx, sy] = [x + (place.x + CHIP.width / 2) * scale, y + (place.y + CHIP.height / 2) * scale];
      const [w, h] = [this.element.clientWidth, this.element.clientHeight];
      if (sx < 40 || sy < 40 || sx > w - 40 || sy > h - 40) this.pan(w / 2 - sx, h / 2 - sy);
    }
    this.redraw();
  }

  /** The nearest endpoint in a direction from the one that is chosen */
  neighbor(dx, dy) {
    const here = this.plan.places.get(this.selected);
    if (!here) return this.plan.order[0] ?? null;
    let [best, least] = [this.selected, Infinity];
    for (const [key, place] of this.plan.places) {
      const [x, y] = [place.x - here.x, place.y - here.y];
      const along = x * dx + y * dy;
      if (along <= 0) continue;
      const far = along + 3 * Math.abs(x * dy + y * dx);
      if (far < least) [best, least] = [key, far];
    }
    return best;
  }

  /** The picture is not what it should be any more. */
  redraw() {
    this.stale = true;
    this.request();
  }

  request() {
    if (this.planned) return;
    this.planned = true;
    requestAnimationFrame((now) => {
      this.planned = false;
      this.frame(now);
    });
  }

  frame(now) {
    if (!this.colors.bg || !this.element.clientWidth) return;
    const gap = now - (this.lastFrame ?? now);
    if (this.task && gap > 0 && gap < 1000) this.slice = gap > LATE ? Math.max(SLICE.least, this.slice / 2) : Math.min(SLICE.most, this.slice * 1.1);
    this.lastFrame = now;
    // What was begun is finished, also when it is wanted otherwise meanwhile: nothing would ever be while the map is moved.
    if (this.stale && !this.task && now - (this.begun ?? 0) > MOVING) {
      this.stale = false;
      this.begun = now;
      this.task = this.paint({ ...this.view });
    }
    if (this.task) {
      this.room = this.slice;
      const step = this.task.next();
      if (step.done) {
        this.task = null;
        [this.front, this.back] = [this.back, this.front];
        this.frontView = step.value;
      }
    }
    if (this.task || this.stale) this.request();
    this.compose();
  }

  /** Puts what was drawn last where it is now, and on top what is chosen. */
  compose() {
    const { context, ratio, view, frontView } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = this.colors.bg;
    context.fillRect(0, 0, this.element.width, this.element.height);
    if (frontView) {
      const scale = view.scale / frontView.scale;
      context.setTransform(scale, 0, 0, scale, (view.x - frontView.x * scale) * ratio, (view.y - frontView.y * scale) * ratio);
      context.drawImage(this.front, 0, 0);
    }
    context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
    const shown = this.hovered ?? this.selected;
    if (shown && this.plan.places.has(shown)) {
      for (const line of this.of?.get(shown) ?? []) this.line(context, line, 2.2, 1);
      for (const line of (this.of?.get(shown) ?? []).slice(0, MARKED)) this.mark(context, line);
    }
    for (const key of new Set([this.selected, this.hovered])) {
      const place = key && this.plan.places.get(key);
      if (!place) continue;
      this.chip(context, place, true, Math.max(1, 0.62 / view.scale));
    }
  }

  /** Draws all of it on the canvas that is not shown, a little at a time. */
  * paint(view) {
    const context = this.back.getContext("2d");
    const { ratio, colors } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = colors.bg;
    context.fillRect(0, 0, this.back.width, this.back.height);
    context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
    const [left, top] = [-view.x / view.scale, -view.y / view.scale];
    const [right, bottom] = [left + this.element.clientWidth / view.scale, top + this.element.clientHeight / view.scale];
    for (const { box, x, y } of this.plan.blocks) {
      if (x > right || y > bottom || x + box.width < left || y + box.height < top) continue;
      this.block(context, box, x, y, view.scale);
    }
    yield;
    const faint = this.selected !== null;
    const many = this.lines.length;
    const strength = faint ? 0.12 : many > 4000 ? 0.16 : many > 800 ? 0.3 : 0.75;
    const bundled = many > BUNDLED.lines && view.scale < BUNDLED.scale;
    let open = null;
    for (const { kind, curve: [ax, ay, bx, by, cx, cy, dx, dy], box: [x, y, x2, y2] } of bundled ? [] : this.lines) {
      if (x > right || y > bottom || x2 < left || y2 < top) continue;
      if (open !== kind) {
        // Lines of one kind are one path: a stroke for each would cost much more.
        if (open) context.stroke();
        open = kind;
        this.style(context, kind, Math.max(1.2, 0.8 / view.scale), kind === "forwarded" || faint ? strength : Math.min(0.9, strength * 2.5));
        context.beginPath();
      }
      context.moveTo(ax, ay);
      context.bezierCurveTo(bx, by, cx, cy, dx, dy);
      if ((this.room -= 1) <= 0) {
        context.stroke();
        open = null;
        yield;
      }
    }
    if (open) context.stroke();
    context.globalAlpha = 1;
    context.setLineDash([]);
    if (!faint && many <= MARKED && view.scale > 0.4) for (const line of this.lines) this.mark(context, line);
    const scale = view.scale;
    for (const place of this.plan.places.values()) {
      if (place.x > right || place.y > bottom || place.x + CHIP.width < left || place.y + CHIP.height < top) continue;
      this.chip(context, place, false, scale >= 0.4 ? Math.max(1, Math.min(1.45, 0.68 / scale)) : 0);
      if ((this.room -= 1) <= 0) yield;
    }
    if (bundled) {
      yield;
      for (const bundle of this.bundles) this.bundle(context, bundle, view.scale, faint ? 0.2 : 0.85);
      yield;
    }
    if (scale < 0.4) for (const { box, x, y } of this.plan.blocks) if (box.kind === "host") this.label(context, box, x, y, scale);
    return view;
  }

  style(context, kind, width, alpha) {
    context.strokeStyle = this.colors[kind];
    context.globalAlpha = alpha;
    context.lineWidth = width;
    context.setLineDash({ refused: [6, 4], audit: [2, 3], staged: [10, 4] }[kind] ?? []);
  }

  line(context, line, width, alpha) {
    this.style(context, line.kind, Math.max(width, width / this.view.scale / 1.5), alpha);
    const [ax, ay, bx, by, cx, cy, dx, dy] = line.curve;
    context.beginPath();
    context.moveTo(ax, ay);
    context.bezierCurveTo(bx, by, cx, cy, dx, dy);
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  /** All lines of a kind between two hosts, the wider the more they are */
  bundle(context, { kind, count, curve: of }, scale, alpha) {
    const [ax, ay, bx, by, cx, cy, dx, dy] = of;
    const most = kind === "forwarded" ? 4 : 2;
    this.style(context, kind, Math.min(most, 0.7 + Math.log2(count) / 2.5) / scale, alpha);
    context.setLineDash(context.getLineDash().map((part) => part / scale));
    context.save();
    // Those of other kinds beside it
    context.translate(0, { staged: -4, audit: 4, refused: 7 }[kind] / scale || 0);
    context.beginPath();
    context.moveTo(ax, ay);
    context.bezierCurveTo(bx, by, cx, cy, dx, dy);
    context.stroke();
    context.restore();
    context.globalAlpha = 1;
    context.setLineDash([]);
  }

  /** The name of a host over its endpoints, where these are too small to have theirs */
  label(context, box, x, y, scale) {
    const size = 10.5 / scale;
    context.font = `600 ${size}px ${this.font}`;
    const text = clipped(context, box.name, box.width + 64);
    const wide = context.measureText(text).width + 8 / scale;
    const [left, top] = [x + (box.width - wide) / 2, y + 18 + 6 / scale];
    context.fillStyle = this.colors.panel;
    context.globalAlpha = 0.92;
    context.fillRect(left, top, wide, size * 1.35);
    context.globalAlpha = 1;
    context.fillStyle = this.colors.text;
    context.textBaseline = "middle";
    context.fillText(text, left + 4 / scale, top + size * 0.7);
  }

  /** Which way it goes; what was refused has a cross. */
  mark(context, { curve: of, kind }) {
    const [x, y] = point(of, 0.5);
    const [nx, ny] = point(of, 0.54);
    context.save();
    context.translate(x, y);
    context.strokeStyle = context.fillStyle = this.colors[kind];
    context.lineWidth = 1.8;
    if (kind === "refused") {
      context.beginPath();
      for (const turn of [1, -1]) { context.moveTo(-4, -4 * turn); context.lineTo(4, 4 * turn); }
      context.stroke();
    } else {
      context.rotate(Math.atan2(ny - y, nx - x));
      context.beginPath();
      context.moveTo(4.5, 0);
      context.lineTo(-3.5, -3.5);
      context.lineTo(-3.5, 3.5);
      context.fill();
    }
    context.restore();
  }

  block(context, box, x, y, scale) {
    const { colors } = this;
    const radius = { tenant: 8, network: 6, host: 4 }[box.kind];
    context.beginPath();
    context.roundRect(x, y, box.width, box.height, radius);
    context.fillStyle = { tenant: colors["panel-2"], network: colors.panel, host: colors["panel-2"] }[box.kind];
    context.fill();
    context.strokeStyle = box.kind === "network" ? colors["line-strong"] : colors.line;
    context.lineWidth = Math.max(1, 0.7 / scale);
    context.stroke();
    const size = { tenant: 15, network: 13, host: 11 }[box.kind];
    if (size * scale < 5 && box.kind === "host") return;
    const drawn = Math.max(size, 10 / scale);
    context.fillStyle = box.kind === "host" ? colors.dim : colors.text;
    context.font = `${box.kind === "host" ? 500 : 600} ${Math.min(drawn, size * (box.kind === "host" ? 1.35 : 1.7))}px ${this.font}`;
    context.textBaseline = "alphabetic";
    const text = box.kind === "network" ? `${box.name}  ·  VNI ${box.vni}` : box.name;
    context.fillText(clipped(context, text, box.width - 16), x + 8, y + { tenant: 19, network: 17, host: 13 }[box.kind]);
  }

  /** `text` is the size of its name, in times of the usual; 0 for none */
  chip(context, { row, x, y }, on, text) {
    const { colors } = this;
    const { width, height } = CHIP;
    context.beginPath();
    context.roundRect(x, y, width, height, 3);
    context.fillStyle = on ? colors.accent : colors.panel;
    context.fill();
    context.strokeStyle = on ? colors.text : row.refused ? colors.refused : colors["line-strong"];
    context.lineWidth = on ? 1.5 : 1;
    context.stroke();
    if (!text) return;
    context.fillStyle = on ? colors.bg : colors.text;
    context.font = `${11.5 * text}px ${this.font}`;
    context.textBaseline = "middle";
    const name = row.endpoint.slice(row.endpoint.indexOf("/") + 1);
    if (on && text > 1) {
      const wide = context.measureText(name).width + 12;
      context.fillStyle = colors.accent;
      context.fillRect(x, y - (height * (text - 1)) / 2, Math.max(width, wide), height * text);
      context.fillStyle = colors.bg;
      context.fillText(name, x + 6, y + height / 2);
    } else {
      context.fillText(clipped(context, name, width - 12), x + 6, y + height / 2 + 0.5);
    }
  }

  world(event) {
    const box = this.element.getBoundingClientRect();
    return [(event.clientX - box.left - this.view.x) / this.view.scale, (event.clientY - box.top - this.view.y) / this.view.scale];
  }

  chipAt([x, y]) {
    for (const { box, x: left, y: top } of this.plan.blocks) {
      if (box.kind !== "host" || x < left || y < top || x > left + box.width || y > top + box.height) continue;
      const column = Math.floor((x - left - 8) / (CHIP.width + CHIP.gap));
      const line = Math.floor((y - top - 18) / (CHIP.height + CHIP.gap));
      if (column < 0 || column >= box.columns || line < 0) continue;
      return box.endpoints[line * box.columns + column]?.key ?? null;
    }
    return null;
  }

  /** The line next to a point, of those that can be told apart there */
  lineAt([x, y]) {
    const among = this.selected ? this.of?.get(this.selected) ?? [] : this.lines.length <= MARKED ? this.lines : [];
    let [best, least] = [null, 7 / this.view.scale];
    for (const line of among) {
      for (let step = 1; step < 24; step += 1) {
        const [px, py] = point(line.curve, step / 24);
        const far = Math.hypot(px - x, py - y);
        if (far < least) [best, least] = [line, far];
      }
    }
    return best;
  }

  down(event) {
    this.element.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, moved: 0 });
  }

  moved(event) {
    const pointer = this.pointers.get(event.pointerId);
    if (!pointer) {
      const key = this.chipAt(this.world(event));
      if (key !== this.hovered) {
        this.hovered = key;
        this.element.classList.toggle("on-chip", key !== null);
        this.request();
      }
      return;
    }
    const [dx, dy] = [event.clientX - pointer.x, event.clientY - pointer.y];
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, it]) => it);
      const before = Math.hypot(pointer.x - other.x, pointer.y - other.y);
      const after = Math.hypot(event.clientX - other.x, event.clientY - other.y);
      const box = this.element.getBoundingClientRect();
      this.zoom(after / Math.max(1, before), (event.clientX + other.x) / 2 - box.left, (event.clientY + other.y) / 2 - box.top);
    } else {
      this.pan(dx, dy);
    }
    Object.assign(pointer, { x: event.clientX, y: event.clientY, moved: pointer.moved + Math.abs(dx) + Math.abs(dy) });
  }

  up(event) {
    const pointer = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    if (!pointer || pointer.moved > 4 || event.type === "pointercancel") return;
    const at = this.world(event);
    const key = this.chipAt(at);
    const line = key ? null : this.lineAt(at);
    if (line) this.chooseLine(line);
    else this.choose(key);
  }

  wheel(event) {
    event.preventDefault();
    const box = this.element.getBoundingClientRect();
    this.zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - box.left, event.clientY - box.top);
  }
}

/** As much of a text as there is room for */
function clipped(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let [least, most] = [0, text.length];
  while (least < most) {
    const middle = Math.ceil((least + most) / 2);
    if (context.measureText(`${text.slice(0, middle)}…`).width <= room) least = middle;
    else most = middle - 1;
  }
  return least > 0 ? `${text.slice(0, least)}…` : "";
}
