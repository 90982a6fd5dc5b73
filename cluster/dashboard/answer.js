// One answer on the page: its rounds as spans of token spans, the ribbon of rounds below, the legend, and what is known
// of the round that is pointed at or focused. A token keeps its round even where its text comes later (an unfinished
// character, what might have been a stop string).
import { PLAIN, classOf, swatch } from "./palette.js";
import { element, percent } from "./panels.js";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const WIDE = 9; // a ribbon column
const HIGH = 7; // a token in it
const WEIGHTS = 6; // drafters shown of a round

export class Answer {
  constructor() {
    this.reset();
    const box = $("answer");
    for (const [area, find] of [
      [box, (target) => target.closest?.(".round")],
      [$("ribbon"), (target) => target.closest?.("g")],
    ]) {
      area.addEventListener("pointerover", (event) => this.pick(find(event.target)));
      area.addEventListener("click", (event) => this.pick(find(event.target)));
    }
    box.addEventListener("focusin", (event) => this.pick(event.target.closest(".round")));
    box.addEventListener("keydown", (event) => this.move(event));
    this.legend();
  }

  reset() {
    this.rounds = [];
    this.tokens = 0;
    this.spans = []; // by token
    this.counts = new Map();
    this.current = -1;
    this.followed = true; // the newest round is shown until the reader picks one
  }

  begin() {
    this.reset();
    $("answer").replaceChildren();
    $("ribbon").replaceChildren();
    $("ribbon-box").hidden = true;
    $("round").replaceChildren(element("p", { className: "empty", text: "The first round is on its way." }));
    this.legend();
  }

  add(vendor, text) {
    const round = { ...vendor, place: this.rounds.length };
    round.own = round.token_ids.length - Math.min(round.accepted, round.token_ids.length);
    this.rounds.push(round);
    this.tokens += round.token_ids.length;
    const span = element("span", { className: "round", role: "group", "aria-label": heading(round), tabindex: this.rounds.length === 1 ? "0" : "-1" });
    span.dataset.place = round.place;
    round.span = span;
    round.token_ids.forEach((id, at) => {
      const name = at < round.accepted ? round.drafter : PLAIN;
      const token = element("span", { className: `token ${classOf(name)}` });
      this.spans[round.start + at] = token;
      span.append(token);
      this.counts.set(name, (this.counts.get(name) || 0) + 1);
    });
    $("answer").append(span);
    for (const [token, piece] of round.pieces) this.spans[token].append(piece);
    round.text = text;
    this.draw(round);
    this.legend();
    if (this.followed) this.show(round.place);
  }

  end() {
    if (!this.rounds.length) {
      $("answer").replaceChildren(element("p", { className: "empty", text: "No token came." }));
      $("round").replaceChildren();
    }
  }

  draw(round) {
    const svg = $("ribbon");
    const column = document.createElementNS(SVG, "g");
    column.dataset.place = round.place;
    const x = round.place * WIDE;
    let height = 0;
    const block = (count, className) => {
      for (let at = 0; at < count; at += 1) {
        const rect = document.createElementNS(SVG, "rect");
        height += HIGH;
        for (const [name, value] of [["x", x + 1], ["y", -height], ["width", WIDE - 2], ["height", HIGH - 1], ["rx", 1]]) {
          rect.setAttribute(name, value);
        }
        rect.setAttribute("class", className);
        column.append(rect);
      }
    };
    block(Math.min(round.accepted, round.token_ids.length), `full ${classOf(round.drafter)}`);
    block(round.own, "full d-plain");
    block(round.drafted - round.accepted, `hollow ${classOf(round.drafter)}`);
    const title = document.createElementNS(SVG, "title");
    title.textContent = heading(round);
    column.prepend(title);
    svg.append(column);
    this.highest = Math.max(round.place ? this.highest : 0, height);
    const width = this.rounds.length * WIDE;
    svg.setAttribute("viewBox", `0 ${-this.highest} ${width} ${this.highest}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", this.highest);
    $("ribbon-box").hidden = false;
    const scroll = svg.parentElement;
    scroll.scrollLeft = scroll.scrollWidth;
  }

  legend() {
    const total = this.tokens;
    const rows = [...this.counts].sort((a, b) => (a[0] === PLAIN) - (b[0] === PLAIN) || b[1] - a[1]);
    if (!rows.length) {
      $("legend").replaceChildren(element("li", { className: "empty", text: "Send a prompt to see who proposes what." }));
      return;
    }
    $("legend").replaceChildren(...rows.map(([name, count]) => {
      const fill = element("span", { className: `bar-fill ${classOf(name)}` });
      fill.style.width = `${(100 * count) / total}%`;
      return element("li", { "data-name": name },
        swatch(name),
        element("span", { className: "legend-name", text: name === PLAIN ? "the target" : name }),
        element("span", { className: "bar", "aria-hidden": "true" }, fill),
        element("b", { text: `${count}` }),
        element("span", { className: "share", text: percent(count / total) }));
    }));
  }

  pick(found) {
    if (!found) return;
    this.followed = false;
    this.show(Number(found.dataset.place));
  }

  move(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || !this.rounds.length) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(this.rounds.length - 1, this.current + step));
    this.rounds[next].span.focus();
  }

  show(place) {
    const round = this.rounds[place];
    if (!round) return;
    if (this.current !== place) {
      const old = this.rounds[this.current];
      if (old) old.span.tabIndex = -1;
      for (const marked of document.querySelectorAll(".picked")) marked.classList.remove("picked");
      round.span.tabIndex = 0;
      round.span.classList.add("picked");
      $("ribbon").children[place].classList.add("picked");
    }
    this.current = place;
    const weights = Object.entries(round.weights || {}).sort((a, b) => b[1] - a[1]);
    const sum = weights.reduce((total, [, weight]) => total + weight, 0) || 1;
    const shown = weights.slice(0, WEIGHTS).filter(([, weight]) => weight / sum >= 0.005);
    $("round").replaceChildren(
      element("p", { className: "round-who" }, swatch(round.drafted ? round.drafter : PLAIN), element("b", { text: round.drafted ? round.drafter : "plain" }),
        element("span", { className: "share", text: `round ${place + 1} of ${this.rounds.length}` })),
      element("p", { className: "round-what", text: what(round) }),
      ...(shown.length ? [element("h3", { text: "Weights when it was chosen" })] : []),
      element("ul", { className: "legend" }, ...shown.map(([name, weight]) => {
        const fill = element("span", { className: `bar-fill ${classOf(name)}` });
        fill.style.width = `${(100 * weight) / sum}%`;
        return element("li", {}, swatch(name), element("span", { className: "legend-name", text: name }),
          element("span", { className: "bar", "aria-hidden": "true" }, fill), element("span", { className: "share", text: percent(weight / sum) }));
      })));
  }
}

function heading(round) {
  if (!round.drafted) return `Round ${round.place + 1}: plain`;
  return `Round ${round.place + 1}: ${round.drafter}, ${round.accepted} of ${round.drafted} accepted`;
}

function what(round) {
  const tokens = (count) => `${count} ${count === 1 ? "token" : "tokens"}`;
  if (!round.drafted) return "Nobody drafted; the target made one token by itself.";
  const own = round.own ? `, and the target added ${round.own === 1 ? "one" : round.own} of its own` : "";
  return `Drafted ${tokens(round.drafted)}; ${round.accepted === round.drafted ? "all" : round.accepted || "none"} accepted${own}.`;
}
