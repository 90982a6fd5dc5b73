// Calls to the server that this page came from, and its event streams. Paths are relative, so that a prefix before
// /dashboard is kept. Where the server wants an API key, the page asks for it once and keeps it for this tab.

const KEY = "paceline.key";
const STALL_MS = 120000;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function call(path, options = {}) {
  const headers = { ...options.headers };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  const reply = await fetch(path, { ...options, headers, cache: "no-store" });
  if (reply.ok) return reply;
  if (reply.status === 401) document.getElementById("key-form").hidden = false;
  let message = `HTTP ${reply.status}`;
  try {
    message = (await reply.json()).error.message;
  } catch {
    // not ours: a proxy's page, say
  }
  throw new Refused(reply.status, message);
}

export function onKey(use) {
  const form = document.getElementById("key-form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, document.getElementById("key").value);
    form.hidden = true;
    use();
  });
}

// The objects of a server-sent event stream, until [DONE]. A stream that is silent for too long, or that ends without
// [DONE], is an error.
export async function* events(reply, stallMs = STALL_MS) {
  const reader = reply.body.getReader();
  const decoder = new TextDecoder();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await within(reader.read(), stallMs);
      if (done) throw new Error("the connection ended");
      held += decoder.decode(value, { stream: true });
      let end;
      while ((end = held.indexOf("\n\n")) >= 0) {
        const line = held.slice(0, end);
        held = held.slice(end + 2);
        if (!line.startsWith("data: ")) continue;
        const data = line.slice(6);
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new Refused(0, event.error.message);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function within(promise, ms) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came for ${ms / 1000} s`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
