// A table of however many rows, of which those that can be seen are elements. It is walked with the arrow keys, and read as a grid.

import { fill, h, setText, throttled } from "./dom.js";

const ROW = 28;
const MORE = 6;

/**
 * `columns`: `{ key, title, width, text(row), node(row), sort(row), low, kind }`. `width` is a track of a grid, and `few` what it is
 * on narrow screens, where `low` columns give way. `open(row)` is called for the row that is chosen.
 */
export class Table {
  constructor({ label, columns, open, key, empty = "nothing", sort = null }) {
    this.columns = columns;
    this.open = open;
    this.key = key;
    this.sorting = sort;
    this.rows = [];
    this.at = 0;
    this.shown = new Map();
    this.free = [];
    this.head = h("div", { class: "grid-row grid-head", role: "row" });
    this.body = h("div", { class: "grid-body", role: "rowgroup" });
    this.empty = h("p", { class: "empty" }, empty);
    this.scroller = h("div", { class: "grid-scroll", role: "grid", "aria-label": label, tabindex: "0" }, h("div", { role: "rowgroup", class: "grid-headgroup" }, this.head), this.body);
    this.element = h("div", { class: "grid" }, this.scroller, this.empty);
    this.draw = throttled(0, () => this.render());
    this.scroller.addEventListener("scroll", this.draw, { passive: true });
    this.scroller.addEventListener("keydown", (event) => this.pressed(event));
    this.body.addEventListener("click", (event) => this.clicked(event));
    new ResizeObserver(this.draw).observe(this.scroller);
    this.heads();
  }

  heads() {
    const cells = this.columns.map((column) => {
      const sorted = this.sorting?.key === column.key ? this.sorting.down : null;
      const order = sorted === null ? "none" : sorted ? "descending" : "ascending";
      const choose = () => {
        this.sorting = { key: column.key, down: sorted === null ? Boolean(column.down) : !sorted };
        this.heads();
        this.arrange();
      };
      const mark = sorted === null ? "" : sorted ? " ▾" : " ▴";
      const inside = column.sort ? h("button", { type: "button", class: "sorter", tabindex: "-1", onclick: choose }, column.title, h("span", { "aria-hidden": "true" }, mark)) : column.title;
      return h("div", { role: "columnheader", class: cellClass(column), "aria-sort": column.sort ? order : null }, inside);
    });
    fill(this.head, cells);
    const tracks = (all, few) => all.map((column) => (few && column.few) || column.width || "minmax(6em, 1fr)").join(" ");
    this.element.style.setProperty("--tracks", tracks(this.columns, false));
    this.element.style.setProperty("--few-tracks", tracks(this.columns.filter((column) => !column.low), true));
  }

  set(rows) {
    this.source = rows;
    this.arrange();
  }

  arrange() {
    const column = this.columns.find((it) => it.key === this.sorting?.key);
    let rows = this.source ?? [];
    if (column) {
      const order = this.sorting.down ? -1 : 1;
      rows = [...rows].sort((one, other) => {
        const [a, b] = [column.sort(one), column.sort(other)];
        return (a < b ? -1 : a > b ? 1 : 0) * order;
      });
    }
    const current = this.rows[this.at];
    this.rows = rows;
    if (current) {
      const now = rows.indexOf(current);
      const key = now < 0 ? this.key(current) : null;
      const found = now >= 0 ? now : rows.findIndex((row) => this.key(row) === key);
      this.at = found >= 0 ? found : Math.min(this.at, Math.max(0, rows.length - 1));
    }
    this.draw();
  }

  render() {
    const { rows, scroller, body } = this;
    const height = scroller.clientHeight;
    if (height === 0) return;
    body.style.height = `${rows.length * ROW}px`;
    scroller.setAttribute("aria-rowcount", String(rows.length + 1));
    this.empty.hidden = rows.length > 0;
    const from = Math.max(0, Math.floor(scroller.scrollTop / ROW) - MORE);
    const to = Math.min(rows.length, Math.ceil((scroller.scrollTop + height) / ROW) + MORE);
    for (const [at, element] of this.shown) {
      if (at < from || at >= to) {
        this.shown.delete(at);
        element.hidden = true;
        this.free.push(element);
      }
    }
    for (let at = from; at < to; at += 1) {
      let element = this.shown.get(at);
      if (!element) {
        element = this.free.pop() ?? this.make();
        element.hidden = false;
        element.style.transform = `translateY(${at * ROW}px)`;
        element.setAttribute("aria-rowindex", String(at + 2));
        element.id = `${this.prefix()}-${at}`;
        element.rowAt = at;
        this.shown.set(at, element);
      }
      this.write(element, rows[at], at === this.at);
    }
    const current = this.shown.get(this.at);
    if (current) scroller.setAttribute("aria-activedescendant", current.id);
    else scroller.removeAttribute("aria-activedescendant");
  }

  prefix() {
    this.name ??= `grid${(Table.made = (Table.made ?? 0) + 1)}`;
    return this.name;
  }

  make() {
    const cells = this.columns.map((column) => h("div", { role: "gridcell", class: cellClass(column) }));
    const element = h("div", { class: "grid-row", role: "row" }, cells);
    this.body.append(element);
    return element;
  }

  write(element, row, current) {
    element.classList.toggle("current", current);
    element.setAttribute("aria-selected", String(current));
    this.columns.forEach((column, at) => {
      const cell = element.children[at];
      if (column.node) {
        const sign = column.text(row);
        if (cell.sign !== sign) {
          cell.sign = sign;
          fill(cell, column.node(row));
        }
      } else {
        setText(cell, column.text(row));
        if (cell.title !== cell.textContent) cell.title = cell.textContent;
      }
    });
  }

  move(to) {
    this.at = Math.max(0, Math.min(this.rows.length - 1, to));
    const top = this.at * ROW;
    const { scroller } = this;
    const room = scroller.clientHeight - this.head.offsetHeight;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + ROW > scroller.scrollTop + room) scroller.scrollTop = top + ROW - room;
    this.render();
  }

  pressed(event) {
    const screen = Math.max(1, Math.floor(this.scroller.clientHeight / ROW) - 2);
    const to = { ArrowDown: this.at + 1, ArrowUp: this.at - 1, PageDown: this.at + screen, PageUp: this.at - screen, Home: 0, End: this.rows.length - 1 }[event.key];
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (to !== undefined) {
      event.preventDefault();
      this.move(to);
    } else if ((event.key === "Enter" || event.key === " ") && event.target === this.scroller && this.rows[this.at]) {
      event.preventDefault();
      this.open?.(this.rows[this.at], true);
    } else if (event.key === "s" && event.target === this.scroller) {
      // Sorted by the next column that can be: what a click on its head does.
      const able = this.columns.filter((column) => column.sort);
      const next = able[(able.findIndex((column) => column.key === this.sorting?.key) + 1) % able.length];
      if (next) {
        this.sorting = { key: next.key, down: Boolean(next.down) };
        this.heads();
        this.arrange();
      }
    }
  }

  clicked(event) {
    const element = event.target.closest(".grid-row");
    if (!element || !this.rows[element.rowAt]) return;
    this.at = element.rowAt;
    this.render();
    this.open?.(this.rows[this.at], false);
  }
}

const cellClass = (column) => ["cell", column.low ? "low" : "", column.kind ?? ""].filter(Boolean).join(" ");
