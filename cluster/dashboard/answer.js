// One answer on the page: its rounds as spans of token spans, the ribbon of rounds below, the legend, and what is known
// of the round that is pointed at or focused. A token keeps its round even where its text comes later (an unfinished
// character, what might have been a stop string).
import { PLAIN, classOf, swatch } from "./palette.js";
import { element, percent } from "./panels.js";
import { Ribbon } from "./ribbon.js";
import { heading, roundCard } from "./round_card.js";

const $ = (id) => document.getElementById(id);

export class Answer {
  constructor() {
    this.ribbon = new Ribbon($("ribbon"), (place) => this.pick(place));
    this.reset();
    const box = $("answer");
    for (const kind of ["pointerover", "click", "focusin"]) {
      box.addEventListener(kind, (event) => {
        const round = event.target.closest?.(".round");
        if (round) this.pick(Number(round.dataset.place));
      });
    }
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
    this.ribbon.clear();
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
    this.ribbon.add(round, heading(round));
    $("ribbon-box").hidden = false;
    $("ribbon").parentElement.scrollLeft = $("ribbon").parentElement.scrollWidth;
    this.legend();
    if (this.followed) this.show(round.place);
  }

  end() {
    if (!this.rounds.length) {
      $("answer").replaceChildren(element("p", { className: "empty", text: "No token came." }));
      $("round").replaceChildren();
    }
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

  pick(place) {
    this.followed = false;
    this.show(place);
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
      if (old) old.span.classList.remove("picked");
      round.span.tabIndex = 0;
      round.span.classList.add("picked");
      this.ribbon.mark(place);
    }
    this.current = place;
    $("round").replaceChildren(...roundCard(round, this.rounds.length));
  }
}
