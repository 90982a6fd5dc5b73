// The panels that are not charts: tiles, drafters, acceptance, requests, actors. Each takes data and fills its part of
// the page; text goes in as text, never as HTML.
import { withPlain } from "./history.js";
import { PLAIN, classOf, names, present, swatch } from "./palette.js";

const $ = (id) => document.getElementById(id);

export function element(tag, { text, className, title, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  if (title) made.title = title;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const percent = (share) => `${Math.round(share * 100)} %`;

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 9950) return `${(ms / 1000).toFixed(0)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return ms >= 100 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

function set(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

export function showTiles(history) {
  const point = history.last || {};
  const end = history.now - 1;
  const rate = history.rate(end);
  const { by, total } = history.rounds(end);
  const tokens = history.window(end, 5).reduce((sum, item) => sum + item.tokens, 0);
  set("tile-rate", total ? rate.toFixed(rate < 10 ? 1 : 0) : "0");
  set("tile-rate-note", total ? "over the last 5 s" : "no requests now");
  set("tile-speed-up", point.speed_up ? `${point.speed_up.toFixed(2)}×` : "–");
  const together = point.plain_sequences > 1 ? ` of ${point.plain_sequences}` : "";
  set(
    "tile-speed-up-note",
    point.plain_round_ms ? `plain round${together}: ${milliseconds(point.plain_round_ms)}` : "over plain decoding",
  );
  set("tile-per-round", total ? (tokens / total).toFixed(2) : "–");
  const [first] = Object.entries(by).sort((a, b) => b[1] - a[1]);
  const puller = $("tile-puller");
  if (puller.dataset.name !== (first ? first[0] : "")) {
    puller.dataset.name = first ? first[0] : "";
    puller.replaceChildren(...(first ? [swatch(first[0]), first[0]] : ["–"]));
  }
  set("tile-puller-note", first ? `${percent(first[1] / total)} of rounds` : "nobody now");
  for (const [id, pair, rare] of [["tile-ttft", point.ttft_ms, "p95"], ["tile-token", point.token_ms, "p99"]]) {
    set(id, milliseconds(pair && pair[0]));
    set(`${id}-note`, pair ? `median; ${rare} ${milliseconds(pair[1])}` : "median of 30 s, streams");
  }
  set("tile-running", `${point.running ?? "–"}`);
  set("tile-running-note", `${point.waiting ?? 0} waiting`);
}

export function showDrafters(history, state) {
  const point = history.last || {};
  const { by, total } = history.rounds(history.now - 1);
  const known = new Map((state ? state.drafters : []).map((drafter) => [drafter.name, drafter]));
  const usable = new Set(point.usable || []);
  const weights = point.weights ? withPlain(point.weights) : {};
  const rows = present().map((name) => {
    const share = total ? (by[name] || 0) / total : null;
    const weight = weights[name];
    const { kind, gamma, draft_ms: draftMs } = known.get(name) || {};
    const up = name === PLAIN || usable.has(name) || (!point.usable && known.get(name)?.up);
    const label = element("span", { className: "drafter-name" }, swatch(name), name);
    if (!up) label.append(element("em", { className: "bad", text: "down" }));
    const head = element("th", { scope: "row", title: name === PLAIN ? "the target alone" : `kind: ${kind}` }, label);
    return element("tr", { className: up ? "" : "down" }, head,
      bar(share, name),
      bar(weight, name),
      element("td", { className: "number", text: gamma ? percent(gamma) : "–" }),
      element("td", { className: "number", text: draftMs ? milliseconds(draftMs) : "–" }));
  });
  $("drafters").tBodies[0].replaceChildren(...rows);
}

function bar(share, name) {
  if (share === null || share === undefined) return element("td", { className: "number", text: "–" });
  const fill = element("span", { className: `bar-fill ${classOf(name)}` });
  fill.style.width = `${Math.round(share * 100)}%`;
  const track = element("span", { className: "bar", "aria-hidden": "true" }, fill);
  return element("td", { className: `number barred${share < 0.005 ? " none" : ""}` }, element("span", { text: percent(share) }), track);
}

export function showAcceptance(history, span, longest) {
  const found = history.acceptance(span);
  const drafters = names(Object.keys(found)).filter((name) => found[name]);
  const box = $("acceptance");
  if (!drafters.length) {
    box.replaceChildren(element("p", { className: "empty", text: "No drafts were verified in this time." }));
    return;
  }
  const places = Math.min(longest, Math.max(...drafters.map((name) => found[name].judged.length)));
  const head = element("tr", {}, element("th", { scope: "col", text: "Token of the draft" }));
  const perRound = "Tokens that a round with a draft of this drafter brings, the target's own included";
  for (let place = 1; place <= places; place += 1) head.append(element("th", { scope: "col", text: `${place}.` }));
  head.append(element("th", { scope: "col", text: "per round", title: perRound }));
  const rows = drafters.map((name) => {
    const row = element("tr", {}, element("th", { scope: "row" }, element("span", { className: "drafter-name" }, swatch(name), name)));
    for (let place = 0; place < places; place += 1) {
      const judged = found[name].judged[place] || 0;
      const accepted = found[name].accepted[place] || 0;
      const level = judged ? Math.round((accepted / judged) * 10) : "none";
      const title = judged ? `${name}, token ${place + 1}: ${accepted} of ${judged} that were reached were accepted` : "never reached";
      row.append(element("td", { className: `heat-${level}${judged < 5 ? " few" : ""}`, title, text: judged ? `${Math.round((accepted / judged) * 100)}` : "" }));
    }
    const { judged, accepted } = found[name];
    const brought = 1 + accepted.reduce((sum, count) => sum + count, 0) / judged[0];
    row.append(element("td", { className: "per-round", title: perRound, text: brought.toFixed(2) }));
    return row;
  });
  const caption = element("caption", { text: "% of drafted tokens that were accepted, among those whose forerunners all were; faint: fewer than five" });
  box.replaceChildren(element("table", { className: "heat" }, caption, element("thead", {}, head), element("tbody", {}, ...rows)));
}

const STATES = { stop: "finished", length: "token limit", "client left": "client left", "server stopped": "server stopped", error: "error", running: "running" };

const requestRows = new Map(); // by id: what the row shows, and the row

// `open` is called with a request's id when its row's button is pressed. Rows that show the same as before stay as they
// are, so that a focus or a click is not lost to the next second.
export function showRequests(requests, open) {
  const box = $("requests");
  if (!requests.length) {
    requestRows.clear();
    box.replaceChildren(element("p", { className: "empty", text: "No requests yet. Try the playground." }));
    return;
  }
  if (!box.querySelector("tbody")) {
    const head = element("tr", {}, ...[["Request", ""], ["At", ""], ["Tokens", "number"], ["Tokens/s", "number"], ["Per round", "number"], ["Who pulled", ""], ["End", ""]]
      .map(([text, className]) => element("th", { scope: "col", text, className })));
    box.replaceChildren(element("table", { className: "requests" }, element("thead", {}, head), element("tbody")));
  }
  const body = box.querySelector("tbody");
  const listed = new Set(requests.map(({ id }) => id));
  for (const [id, { row }] of requestRows) {
    if (listed.has(id)) continue;
    row.remove();
    requestRows.delete(id);
  }
  requests.forEach((request, place) => {
    const shown = JSON.stringify(request);
    let known = requestRows.get(request.id);
    if (!known) {
      known = { row: element("tr", {}, element("th", { scope: "row" }, opener(request.id, open))) };
      requestRows.set(request.id, known);
    }
    if (known.shown !== shown) {
      known.shown = shown;
      known.row.replaceChildren(known.row.cells[0], ...requestCells(request));
    }
    if (body.rows[place] !== known.row) body.insertBefore(known.row, body.rows[place] || null);
  });
}

function requestCells(request) {
  return [
    element("td", { text: new Date(request.at * 1000).toLocaleTimeString([], { hour12: false }) }),
    element("td", { className: "number", text: `${request.tokens}` }),
    element("td", { className: "number", text: request.tokens_per_s === null ? "–" : request.tokens_per_s.toFixed(0) }),
    element("td", { className: "number", text: request.tokens_per_round === null ? "–" : request.tokens_per_round.toFixed(2) }),
    element("td", {}, stack(request.rounds)),
    element("td", { className: `end end-${request.state.replace(" ", "-")}`, text: STATES[request.state] || request.state }),
  ];
}

function opener(id, open) {
  const button = element("button", { type: "button", className: "mono", title: `${id}: show its rounds`, text: short(id) });
  button.addEventListener("click", () => open(id));
  return button;
}

const short = (id) => id.replace(/^(chat)?cmpl-/, "").slice(0, 8) + (/-(\d+)$/.exec(id)?.[1] > 0 ? ` #${+/-(\d+)$/.exec(id)[1] + 1}` : "");

function stack(rounds) {
  const total = Object.values(rounds).reduce((sum, count) => sum + count, 0);
  const order = names(Object.keys(rounds)).filter((name) => rounds[name]);
  const said = order.map((name) => `${name} ${percent(rounds[name] / total)}`).join(", ");
  const box = element("span", { className: "stack", role: "img", "aria-label": said || "no rounds", title: said });
  for (const name of order) {
    const part = element("span", { className: classOf(name) });
    part.style.flexGrow = rounds[name];
    box.append(part);
  }
  return box;
}

export function showActors(state) {
  const box = $("actors");
  if (!state || !state.actors.length) {
    box.replaceChildren(element("p", { className: "empty", text: "No actor has answered yet." }));
    return;
  }
  const nodes = byNode(state.actors);
  box.replaceChildren(...[...nodes].sort().map(([node, actors]) => element("section", { className: "node" },
    element("h3", {}, element("span", { className: "mono", text: node || "nowhere yet" }),
      element("span", { className: "node-up", text: upCount(actors) })),
    element("ul", {}, ...actors.map(actorCard)))));
}

function upCount(actors) {
  const up = actors.filter((actor) => actor.state === "up").length;
  return up === actors.length ? `${up} up` : `${up} of ${actors.length} up`;
}

function byNode(actors) {
  const found = new Map();
  for (const actor of actors) found.set(actor.node, [...(found.get(actor.node) || []), actor]);
  return found;
}

function actorCard(actor) {
  const own = actor.address.startsWith(`${actor.node}:`);  // the host is what stands above it
  const address = own ? actor.address.slice(actor.node.length) : actor.address;
  const up = actor.state === "up";
  const facts = (up ? [actor.device, actor.pid ? `pid ${actor.pid}` : "", address]
    : [actor.node ? `last on ${actor.node}` : actor.device, actor.detail]).filter(Boolean).join(" · ");
  const held = actor.sessions && up ? `${actor.sessions} ${actor.sessions === 1 ? "sequence" : "sequences"}` : "";
  return element("li", { className: `actor is-${actor.state}`, title: facts },
    element("p", {}, element("span", { className: "dot", "aria-hidden": "true" }), element("b", { text: actor.name }),
      element("span", { className: "kind", text: actor.kind === actor.name ? "" : actor.kind }), element("span", { className: "actor-state", text: actor.state })),
    element("p", { className: "facts" }, element("span", { text: facts }), element("span", { className: "held", text: held })));
}
