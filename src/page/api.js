// Questions to the daemon, with the token that was typed in. It is in memory, and in the tab's own storage where that was asked for.

const KEPT = "eastgate-token";

let token = sessionStorage.getItem(KEPT) ?? "";

/** Why there is no answer. `retry` is in seconds where asking again makes sense. */
export class ApiError extends Error {
  constructor(text, { status = 0, code = "unknown", retry = null, diagnostics = null } = {}) {
    super(text);
    Object.assign(this, { status, code, retry, diagnostics });
  }
}

export const hasToken = () => token !== "";

export function setToken(text, keep) {
  token = text.trim();
  if (keep && token) sessionStorage.setItem(KEPT, token);
  else sessionStorage.removeItem(KEPT);
}

function url(path, query) {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query ?? {})) {
    if (value !== null && value !== undefined && value !== "" && value !== false) parameters.set(key, String(value));
  }
  const text = parameters.toString();
  return `/v1/${path}${text ? `?${text}` : ""}`;
}

async function send(method, path, { query, body, signal, accept = "application/json" } = {}) {
  const headers = { Accept: accept, Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url(path, query), {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The daemon cannot be reached", { code: "unreachable", retry: 0 });
  }
  if (response.ok) return response;
  let told = {};
  try {
    told = await response.json();
  } catch {
    // Not every answer on the way is the daemon's.
  }
  const later = Number(response.headers.get("Retry-After"));
  const again = response.status === 429 || response.status >= 500;
  throw new ApiError(String(told.error ?? `The daemon answers with ${response.status}`), {
    status: response.status,
    code: String(told.code ?? "unknown"),
    retry: again ? (Number.isFinite(later) ? later : 0) : null,
    diagnostics: told.diagnostics ?? null,
  });
}

async function json(method, path, options) {
  const response = await send(method, path, options);
  const text = await response.text();
  return text ? JSON.parse(text) : {};
}

export const get = (path, query, signal) => json("GET", path, { query, signal });
export const post = (path, body) => json("POST", path, { body });
export const remove = (path) => json("DELETE", path, {});

/** Events as they happen: `each(event, cursor)` for every message, until the signal or the other end ends it. */
export async function follow(query, signal, each) {
  const response = await send("GET", "events", { query: { ...query, follow: true }, signal, accept: "text/event-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const messages = rest.split(/\r?\n\r?\n/);
    rest = messages.pop();
    for (const message of messages) {
      let [data, cursor, kind] = ["", null, "message"];
      for (const line of message.split(/\r?\n/)) {
        const [, field, text] = /^(\w+): ?(.*)$/.exec(line) ?? [];
        if (field === "data") data += text;
        else if (field === "id") cursor = text;
        else if (field === "event") kind = text;
      }
      const told = data ? JSON.parse(data) : null;
      // The daemon's last word: the token is good no more, or what was asked for is not there.
      if (kind === "failure") throw new ApiError(String(told?.error ?? "the stream has ended"), { status: told?.code === "unauthenticated" ? 401 : 400, code: told?.code });
      if (told) each(told, cursor, kind);
    }
  }
}
