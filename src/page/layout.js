// Where things are on the map: tenants around networks around hosts around endpoints. Units are pixels at a scale of one.

export const CHIP = { width: 124, height: 20, gap: 4 };
// Lines run between boxes, and need room beside them more than below.
const HOST = { head: 18, pad: 8, between: [76, 26] };
const NETWORK = { head: 26, pad: 16, right: 42, between: [22, 18] };
const TENANT = { head: 28, pad: 14, between: [26, 22] };

const grouped = (rows, of) => {
  const groups = new Map();
  for (const row of rows) {
    const key = of(row);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  return [...groups].sort(([one], [other]) => String(one).localeCompare(String(other), "en", { numeric: true }));
};

/** Puts boxes beside each other, and on a new shelf where a row is full. */
function shelves(boxes, width, [beside, below]) {
  let [x, y, high, wide] = [0, 0, 0, 0];
  for (const box of boxes) {
    if (x > 0 && x + box.width > width) [x, y, high] = [0, y + high + below, 0];
    Object.assign(box, { x, y });
    x += box.width + beside;
    high = Math.max(high, box.height);
    wide = Math.max(wide, x - beside);
  }
  return { width: wide, height: y + high };
}

/** The width of shelves with which these boxes are seen largest in a view that is `shape` times as wide as high */
function bestWidth(boxes, between, shape) {
  const widest = Math.max(...boxes.map((box) => box.width));
  const widths = [widest];
  let sum = 0;
  for (const box of boxes.slice(0, 40)) {
    sum += box.width;
    widths.push(Math.max(widest, sum));
    sum += between[0];
  }
  let [best, least] = [widest, Infinity];
  for (const width of widths) {
    const size = shelves(boxes, width, between);
    const cost = Math.max(size.width / shape, size.height);
    if (cost < least) [best, least] = [width, cost];
  }
  return best;
}

function hostBox([name, endpoints]) {
  const { width, height, gap } = CHIP;
  const columns = Math.max(1, Math.round(Math.sqrt((endpoints.length * (height + gap)) / (width + gap)) * 0.8));
  const rows = Math.ceil(endpoints.length / columns);
  endpoints.sort((one, other) => one.endpoint.localeCompare(other.endpoint, "en", { numeric: true }));
  return {
    kind: "host",
    name,
    endpoints,
    columns,
    rows,
    width: columns * (width + gap) - gap + 2 * HOST.pad,
    height: rows * (height + gap) - gap + HOST.head + HOST.pad,
  };
}

function frame(kind, name, children, { head, pad, right = 0 }, between, shape, more) {
  const size = shelves(children, bestWidth(children, between, shape), between);
  for (const child of children) [child.x, child.y] = [child.x + pad, child.y + head];
  return { kind, name, children, width: size.width + 2 * pad + right, height: size.height + head + pad, ...more };
}

/** The map of these endpoints, for a view that is `shape` times as wide as high. */
export function layout(endpoints, shape) {
  const tenants = grouped(endpoints, (row) => row.endpoint.split("/")[0]).map(([tenant, ofTenant]) => {
    const networks = grouped(ofTenant, (row) => row.vni).map(([vni, ofNetwork]) => {
      const hosts = grouped(ofNetwork, (row) => row.host).map(hostBox);
      return frame("network", ofNetwork[0].network, hosts, NETWORK, HOST.between, shape, { vni });
    });
    return frame("tenant", tenant, networks, TENANT, NETWORK.between, shape);
  });
  const map = tenants.length === 0 ? { children: [], width: 1, height: 1 } : frame("map", "", tenants, { head: 16, pad: 16 }, TENANT.between, shape);
  const places = new Map();
  const blocks = [];
  const walk = (box, x, y) => {
    if (box.kind !== "map") blocks.push({ box, x, y });
    const host = { x, y, size: { width: box.width, height: box.height } };
    for (const child of box.children ?? []) walk(child, x + child.x, y + child.y);
    (box.endpoints ?? []).forEach((row, at) => {
      const [column, line] = [at % box.columns, Math.floor(at / box.columns)];
      places.set(row.key, {
        row,
        host,
        x: x + HOST.pad + column * (CHIP.width + CHIP.gap),
        y: y + HOST.head + line * (CHIP.height + CHIP.gap),
      });
    });
  };
  if (map.kind) walk(map, 0, 0);
  return { width: map.width, height: map.height, blocks, places, order: [...places.keys()] };
}

/** Lines of one pair lie beside each other. */
const BESIDE = { forwarded: 0, staged: -4, audit: 4, refused: 7 };

/** A line from one chip (or box) to another, as the four points of a Bezier curve: out of the side that faces the other. */
export function curve(from, to, kind) {
  const { width, height } = { ...CHIP, ...from.size };
  const there = { ...CHIP, ...to.size };
  // Those of either direction too
  const way = from.y > to.y || (from.y === to.y && from.x > to.x) ? 1.5 : -1.5;
  const beside = (BESIDE[kind] ?? 0) + way;
  const [ay, by] = [from.y + height / 2 + beside, to.y + there.height / 2 + beside];
  if (from === to) return [from.x + width, ay - 4, from.x + width + 26, ay - 18, from.x + width + 26, ay + 18, from.x + width, ay + 4];
  if (Math.abs(from.x - to.x) < Math.min(width, there.width)) {
    const bulge = 16 + Math.min(46, Math.abs(ay - by) / 6) + beside;
    return [from.x + width, ay, from.x + width + bulge, ay, to.x + there.width + bulge, by, to.x + there.width, by];
  }
  const right = to.x > from.x;
  const ax = right ? from.x + width : from.x;
  const bx = right ? to.x : to.x + there.width;
  const reach = Math.max(24, Math.abs(bx - ax) * 0.45) * (right ? 1 : -1);
  return [ax, ay, ax + reach, ay, bx - reach, by, bx, by];
}

/** The point of a curve at `t` of its way */
export function point([ax, ay, bx, by, cx, cy, dx, dy], t) {
  const u = 1 - t;
  const [a, b, c, d] = [u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t];
  return [a * ax + b * bx + c * cx + d * dx, a * ay + b * by + c * cy + d * dy];
}
