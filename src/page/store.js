// What is known of the daemon, and who keeps it up: one question at a time, no more than one a second once everything was asked for, none
// while nobody looks.

import { ApiError, follow, get } from "./api.js";

/** Rows of one answer: so many are read without a pause that is seen. */
const PAGE = 2000;
/** Networks come with all their groups and rules. */
const FEW = 100;
/** Flows and endpoints that are kept; with more, a network is to be chosen. */
const MOST = 20000;
/** Events that are kept */
const MOST_EVENTS = 5000;
/** For how long what was refused stays on the map, in milliseconds */
export const RECENT = 5 * 60 * 1000;
/** Questions that are asked one after the other at first */
const AT_FIRST = 24;
const PAUSE = 1000;
const LONGEST = 60;

export const store = new (class extends EventTarget {
  constructor() {
    super();
    this.vni = "";
    this.clear();
  }

  clear() {
    this.status = null;
    this.endpoints = new Map();
    this.byAddress = new Map();
    // Counts up when addresses may be other endpoints' than before.
    this.generation = (this.generation ?? 0) + 1;
    this.flows = new Map();
    this.flowTotal = 0;
    this.endpointTotal = 0;
    this.drops = [];
    this.audits = [];
    this.chatter = 0;
    this.samples = [];
    this.staged = null;
    this.stagedKeys = new Set();
    this.networks = [];
    this.rules = [];
    this.ruleTexts = new Map();
    this.events = [];
    this.refused = new Map();
    this.cursor = null;
    this.lost = 0;
  }

  changed(...topics) {
    this.dispatchEvent(new CustomEvent("change", { detail: topics }));
  }

  /** The endpoint that has an address in a network */
  at(vni, address) {
    return this.byAddress.get(`${vni}|${address}`) ?? null;
  }

  network(vni) {
    return this.networks.find((network) => network.vni === vni) ?? null;
  }

  /** What becomes of a live flow: `audit`, `staged` where the staged version would refuse it, or `forwarded` */
  verdictOf(flow) {
    if (flow.audit) return "audit";
    if (this.stagedKeys.size === 0) return "forwarded";
    return this.stagedKeys.has(stagedKey(flow.vni, flow.proto, flow.src, flow.dst, flow.dport)) ? "staged" : "forwarded";
  }
})();

const stagedKey = (vni, proto, src, dst, port) => `${vni}|${proto}|${src}|${dst}|${port}`;

export const flowKey = (flow) => `${flow.vni}|${flow.proto}|${flow.src}|${flow.sport}|${flow.dst}|${flow.dport}|${flow.via ?? ""}|${flow.id}`;

/** All rows of a list, one answer after the other; takes an answer a call. */
function paged(path, query, take, limit = PAGE) {
  let next = null;
  let first = true;
  return async (signal) => {
    let answer;
    try {
      answer = await get(path, { ...query(), limit, after: next }, signal);
    } catch (error) {
      // Another daemon may know nothing of the place where these rows went on.
      [next, first] = [null, true];
      throw error;
    }
    const goesOn = take(answer, first, !answer.next);
    next = goesOn === false ? null : answer.next ?? null;
    first = next === null;
    return next !== null;
  };
}

const inScope = () => ({ vni: store.vni });

function status() {
  return async (signal) => {
    store.status = await get("status", {}, signal);
    store.changed("status");
    return false;
  };
}

function endpoints() {
  let found = new Map();
  return paged("endpoints", inScope, (answer, first, last) => {
    if (first) found = new Map();
    for (const row of answer.endpoints) found.set(`${row.vni}|${row.endpoint}`, row);
    store.endpointTotal = answer.total;
    const over = found.size >= MOST;
    if (!last && !over) return true;
    // An endpoint that is as it was stays the same object, and what is drawn of it stays.
    let same = found.size === store.endpoints.size;
    for (const [key, row] of found) {
      const before = store.endpoints.get(key);
      if (!before || before.host !== row.host || before.network !== row.network || String(before.addresses) !== String(row.addresses) || String(before.groups) !== String(row.groups)) same = false;
      found.set(key, before ? Object.assign(before, row) : row);
    }
    store.endpoints = found;
    store.byAddress = new Map();
    store.generation += 1;
    let number = 0;
    for (const [key, row] of found) {
      row.key = key;
      row.number = number += 1;
      for (const address of [...row.addresses, ...(row.learned ?? []).map((it) => it.address)]) store.byAddress.set(`${row.vni}|${address}`, row);
    }
    store.changed(same ? "endpoint-counts" : "endpoints");
    return !over;
  });
}

function flows() {
  let round = 0;
  let known = 0;
  return paged("flows", inScope, (answer, first, last) => {
    if (first) [round, known] = [round + 1, 0];
    for (const row of answer.flows) {
      const key = flowKey(row);
      const before = store.flows.get(key);
      const flow = before ? Object.assign(before, row) : row;
      flow.round = round;
      flow.key = key;
      if (!before) store.flows.set(key, flow);
    }
    known += answer.flows.length;
    store.flowTotal = answer.total;
    const over = known >= MOST;
    if (last || over) {
      for (const [key, flow] of store.flows) if (flow.round < round) store.flows.delete(key);
    }
    store.changed("flows");
    return !over;
  });
}

/** The order and number of reasons says nothing: what is kept of each moment is frames by reason since the start. */
function drops() {
  let rows = [];
  let totals = {};
  return paged("drops", () => ({ ...inScope(), all: true }), (answer, first, last) => {
    if (first) [rows, totals] = [[], {}];
    rows.push(...answer.drops);
    for (const row of answer.drops) {
      if (row.class !== "chatter") totals[row.reason] = (totals[row.reason] ?? 0) + row.frames;
    }
    if (last) {
      store.drops = rows;
      store.samples.push({ time: Date.now(), totals });
      if (store.samples.length > 900) store.samples.shift();
      store.changed("drops");
    }
    return true;
  });
}

/** What passed, and would not have if no rule were being tried out */
function audits() {
  let rows = [];
  return paged("drops", () => ({ ...inScope(), audit: true }), (answer, first, last) => {
    if (first) rows = [];
    rows.push(...answer.drops);
    if (last) {
      store.audits = rows;
      store.changed("drops");
    }
    return true;
  });
}

function staged() {
  let rows = [];
  return paged("staged", inScope, (answer, first, last) => {
    if (first) rows = [];
    rows.push(...answer.rows);
    if (last) {
      store.staged = { ...answer, rows };
      const refused = rows.filter((row) => row.change === "would-be-refused");
      store.stagedKeys = new Set(refused.map((row) => stagedKey(row.vni, row.proto, row.src, row.dst, row.port)));
      store.changed("staged");
    }
    return true;
  });
}

function policy() {
  let rows = [];
  // All networks, so that there is one to choose.
  return paged("policy", () => ({}), (answer, first, last) => {
    if (first) rows = [];
    rows.push(...answer.policy);
    if (last) {
      store.networks = rows;
      store.ruleTexts = new Map(rows.flatMap((network) => network.groups.flatMap((group) => group.rules.map((rule) => [rule.rule, rule.text]))));
      store.changed("networks");
    }
    return true;
  }, FEW);
}

function rules() {
  let rows = [];
  return paged("rules", inScope, (answer, first, last) => {
    if (first) rows = [];
    rows.push(...answer.rules);
    if (last) {
      store.rules = rows;
      store.changed("rules");
    }
    return true;
  });
}

/** Takes an event: what was refused is drawn for a while, and flows come and go with it before they are asked for again. */
function happened(event) {
  if (store.vni && String(event.vni) !== store.vni) return;
  store.events.push(event);
  if (store.events.length > MOST_EVENTS) store.events.splice(0, MOST_EVENTS / 10);
  if (event.verdict === "dropped" && event.src && event.dst) {
    const key = `${event.vni}|${event.src}|${event.dst}|${event.proto}|${event.dport}`;
    store.refused.delete(key);
    store.refused.set(key, event);
    if (store.refused.size > MOST_EVENTS) store.refused.delete(store.refused.keys().next().value);
  } else if (event.event === "ended") {
    store.flows.delete(flowKey(event));
  }
}

const told = (() => {
  let planned = false;
  return () => {
    if (planned) return;
    planned = true;
    setTimeout(() => {
      planned = false;
      store.changed("events", "flows");
    }, PAUSE / 2);
  };
})();

/** Keeps the store up. `trouble(error, seconds)` tells why it cannot, `trouble(null)` that it can again. */
export class Keeper {
  constructor(trouble) {
    this.trouble = trouble;
    this.jobs = [];
    this.failures = 0;
    this.aborter = new AbortController();
    this.ended = false;
    this.waiting = new Set();
    document.addEventListener("visibilitychange", this.seen);
  }

  seen = () => {
    if (document.hidden) this.aborter.abort();
    else this.wake();
  };

  start() {
    const job = (name, every, step) => ({ name, every: every * 1000, due: 0, step });
    this.jobs = [
      job("status", 5, status()),
      job("policy", 30, policy()),
      job("endpoints", 15, endpoints()),
      job("staged", 8, staged()),
      job("flows", 3, flows()),
      job("drops", 4, drops()),
      job("rules", 10, rules()),
      job("audits", 10, audits()),
    ];
    this.poll();
    this.stream();
  }

  end() {
    this.ended = true;
    this.aborter.abort();
    this.wake();
    document.removeEventListener("visibilitychange", this.seen);
  }

  /** Asks for everything again, as soon as may be: another network is looked at, or something was done. */
  again() {
    for (const job of this.jobs) job.due = 0;
    this.wake();
  }

  pause(milliseconds) {
    return new Promise((resolve) => {
      const over = () => {
        clearTimeout(timer);
        this.waiting.delete(over);
        resolve();
      };
      const timer = setTimeout(over, milliseconds);
      this.waiting.add(over);
    });
  }

  /** Whoever waits goes on. */
  wake() {
    for (const over of [...this.waiting]) over();
  }

  async hidden() {
    while (document.hidden && !this.ended) await this.pause(PAUSE * 3600);
    if (this.aborter.signal.aborted && !this.ended) this.aborter = new AbortController();
  }

  async poll() {
    let free = AT_FIRST;
    while (!this.ended) {
      await this.hidden();
      const begun = performance.now();
      const job = this.jobs.reduce((first, other) => (other.due < first.due ? other : first));
      if (job.due > begun) {
        await this.pause(Math.min(job.due - begun, PAUSE));
        continue;
      }
      try {
        const more = await job.step(this.aborter.signal);
        job.due = more ? performance.now() : performance.now() + job.every;
        if (this.failures > 0) this.trouble(null);
        this.failures = 0;
      } catch (error) {
        if (error.name === "AbortError") continue;
        if (!(error instanceof ApiError)) throw error;
        // What this token may not see is not asked for again.
        if (error.status === 403) {
          job.due = Infinity;
          continue;
        }
        if (error.status === 401) {
          this.trouble(error, null);
          return;
        }
        this.failures += 1;
        const wait = Math.max(error.retry ?? 0, Math.min(LONGEST, 2 ** this.failures));
        this.trouble(error, wait);
        free = 0;
        await this.pause(wait * 1000);
        continue;
      }
      free -= 1;
      if (free <= 0) await this.pause(Math.max(0, begun + PAUSE - performance.now()));
    }
  }

  async stream() {
    let failures = 0;
    while (!this.ended) {
      await this.hidden();
      try {
        if (store.cursor === null) {
          const answer = await get("events", { ...inScope(), limit: 1000 }, this.aborter.signal);
          answer.events.forEach(happened);
          store.cursor = answer.next;
          told();
        }
        await follow({ ...inScope(), after: store.cursor }, this.aborter.signal, (event, cursor, kind) => {
          failures = 0;
          if (cursor) store.cursor = cursor;
          if (kind === "lost") store.lost += event.lost;
          else happened(event);
          told();
        });
      } catch (error) {
        if (error.name === "AbortError") continue;
        if (error.status === 401 || error.status === 403) return;
        // A cursor of another daemon goes on nowhere.
        if (error.status === 400) store.cursor = null;
      }
      failures += 1;
      await this.pause(Math.min(LONGEST, 2 ** failures) * 1000);
    }
  }
}
