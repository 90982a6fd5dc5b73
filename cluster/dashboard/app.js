// The page: the feed's messages go to the panels and charts, the link's state to the header. Everything is drawn from
// what the server says; the page itself measures nothing.
import { onKey } from "./api.js";
import { LineChart, ShareChart } from "./charts.js";
import { RequestWindow } from "./explain.js";
import { Feed } from "./feed.js";
import { History } from "./history.js";
import { learn, names } from "./palette.js";
import { showAcceptance, showActors, showDrafters, showRequests, showTiles } from "./panels.js";
import { Playground } from "./playground.js";

const $ = (id) => document.getElementById(id);
const IDLE = "Nothing ran in this time.";
const history = new History();
const playground = new Playground();
const requestWindow = new RequestWindow();
const open = (id) => requestWindow.open(id);
const whole = (value) => `${Math.round(value)}`;
const tenths = (value) => (value < 10 ? value.toFixed(1) : value.toFixed(0));
let about = null;
let state = null;
let server = null;
let ended = []; // requests that are over, the newest first

const shares = new ShareChart($("share-chart"), IDLE);
const rates = new LineChart($("rate-chart"), $("rate-keys"), {
  unit: "tokens/s",
  format: whole,
  emptyText: IDLE,
  lines: [
    { name: "measured", colour: "--accent", kind: "filled" },
    { name: "plain decoding would make", colour: "--muted", kind: "dashed" },
  ],
});
// How long something took: its median, and what few took longer than.
function percentiles(id, unit, format, rare, emptyText) {
  return new LineChart($(`${id}-chart`), $(`${id}-keys`), {
    unit,
    format,
    emptyText,
    lines: [
      { name: "median", colour: "--accent", kind: "filled" },
      { name: rare, colour: "--warm", kind: "thin" },
    ],
  });
}
const latencies = percentiles("latency", "ms", tenths, "p99", "No stream ran in this time.");
const firsts = percentiles("first", "ms", whole, "p95", "No stream began in this time.");
const waits = percentiles("wait", "ms", tenths, "p95", "No request came while this page watched.");
const answers = percentiles("answer-time", "s", tenths, "p95", "No answer ended in this time.");
const queue = new LineChart($("queue-chart"), $("queue-keys"), {
  unit: "requests",
  format: whole,
  counts: true,
  emptyText: "Nothing ran while this page watched.",
  lines: [
    { name: "running", colour: "--accent", kind: "filled", stepped: true },
    { name: "waiting", colour: "--warm", kind: "thin", stepped: true },
  ],
});

function chosen(name) {
  return document.querySelector(`input[name=${name}]:checked`).value;
}

function draw() {
  if (!about || $("live").hidden) return;
  const span = Number(chosen("range"));
  const kind = chosen("kind");
  const seconds = history.seconds(span);
  const all = names(history.pullers());
  $("share-title").textContent = kind === "share" ? "Who pulls now" : "What the selector thinks";
  $("share-chart").setAttribute("aria-label", kind === "share" ? "Share of rounds by drafter over time" : "Weights by drafter over time");
  shares.update(seconds, all, history.shares(kind, seconds, all), kind === "share" ? "share of rounds" : "weight");
  const rate = seconds.map((t) => (history.points.size ? history.rate(t) : null));
  const plain = history.values(seconds, (point) => point.speed_up || null);
  rates.update(seconds, [rate, rate.map((value, at) => (plain[at] && value ? value / plain[at] : null))]);
  const both = (name, per = 1) =>
    [0, 1].map((place) => history.values(seconds, (point) => (point[name] ? point[name][place] / per : null)));
  latencies.update(seconds, both("token_ms"));
  firsts.update(seconds, both("ttft_ms"));
  waits.update(seconds, both("queue_ms"));
  answers.update(seconds, both("whole_ms", 1000));
  queue.update(seconds, [history.values(seconds, (point) => point.running), history.values(seconds, (point) => point.waiting)]);
  showTiles(history);
  showDrafters(history, state);
  showAcceptance(history, span, about.max_draft);
}

function say(kind, text) {
  $("state").dataset.state = kind;
  if ($("state-text").textContent !== text) $("state-text").textContent = text;
}

function health(point) {
  if (!point) return;
  if (point.ready === false) say("lost", "no target");
  else if (point.usable && !point.usable.length) say("plain", "plain decoding");
  else if (state && !state.selector_up) say("plain", "ready, no selector");
  else say("ready", "ready");
}

// A message's state: how the actors are, and which drafters there are now.
function take(told) {
  state = told;
  if (state) learn(state.drafters);
  playground.offer();
  showActors(state);
}

// Those that run are told as they are; of those that are over, what came since the last message.
function takeRequests(told) {
  const news = new Set(told.ended.map(({ id }) => id));
  ended = [...told.ended, ...ended.filter(({ id }) => !news.has(id))].slice(0, about.recent);
  showRequests([...told.running, ...ended], open);
}

const feed = new Feed({
  onHello(message) {
    about = message;
    if (server !== null && server !== message.server) history.points.clear(); // another life of the server
    server = message.server;
    take(message.state);
    history.restart(message);
    $("model").textContent = message.model;
    $("model").title = `policy: ${message.policy}`;
    playground.serve(message);
    document.body.classList.remove("stale");
    say(state && state.ready ? "ready" : "lost", state && state.ready ? "ready" : "no target");
    if (state && state.ready && state.mode !== "speculation") say("plain", "plain decoding");
    ended = [];
    takeRequests(message.requests);
    draw();
  },
  onTick(message) {
    history.add(message.point);
    if (message.state) take(message.state);
    if (message.requests) takeRequests(message.requests);
    health(message.point);
    draw();
  },
  onLink(link) {
    $("banner").hidden = link.state !== "lost";
    if (link.state === "lost") {
      document.body.classList.add("stale");
      say("lost", "connection lost");
      const text = about
        ? `The connection is lost (${link.reason}). What you see is old.`
        : `The server does not answer (${link.reason}).`;
      if ($("banner-text").textContent !== text) $("banner-text").textContent = text;
      $("retry").textContent = `Try now (by itself in ${link.inS} s)`;
    } else if (link.state === "connecting") {
      say("connecting", link.failures ? "reconnecting" : "connecting");
    }
  },
});

function showView() {
  const wanted = location.hash === "#playground" ? "playground" : "live";
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== wanted;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === wanted) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = wanted === "live" ? "paceline" : "paceline playground";
  draw();
}

addEventListener("hashchange", showView);
for (const input of document.querySelectorAll("input[name=range], input[name=kind]")) input.addEventListener("change", draw);
$("retry").addEventListener("click", () => feed.retry());
onKey(() => feed.retry());
showView();
feed.run();
