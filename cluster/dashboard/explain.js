// The window of one request: all of its rounds, from what the selector keeps of the newest requests.
import { call } from "./api.js";
import { element } from "./panels.js";
import { Ribbon } from "./ribbon.js";
import { heading, roundCard } from "./round_card.js";

const $ = (id) => document.getElementById(id);

export class RequestWindow {
  constructor() {
    this.rounds = [];
    this.ribbon = new Ribbon($("request-ribbon"), (place) => this.show(place));
    $("request-close").addEventListener("click", () => $("request-window").close());
    $("request-ribbon").addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
      if (!step || !this.rounds.length) return;
      event.preventDefault();
      this.show(Math.max(0, Math.min(this.rounds.length - 1, this.place + step)));
    });
  }

  // id: a generation's; the request's own is without the choice at its end.
  async open(id) {
    const request = id.replace(/-\d+$/, "");
    const choice = Number(/-(\d+)$/.exec(id)?.[1] || 0);
    this.rounds = [];
    this.ribbon.clear();
    $("request-name").textContent = request;
    $("request-note").textContent = "asking the selector";
    $("request-round").replaceChildren();
    $("request-window").showModal();
    try {
      const found = await (await call(`v1/paceline/requests/${encodeURIComponent(request)}`)).json();
      this.fill(found.choices.filter((sequence) => sequence.index === choice));
    } catch (error) {
      $("request-note").textContent = error.message;
    }
  }

  fill(sequences) {
    for (const sequence of sequences) {
      for (const round of sequence.rounds) {
        const own = Math.max(0, round.committed - round.start - round.accepted);
        this.rounds.push({ ...round, own, place: this.rounds.length });
      }
    }
    for (const round of this.rounds) this.ribbon.add(round, heading(round));
    const missing = sequences.reduce((sum, item) => sum + item.rounds_left_out + item.rounds_lost, 0);
    const tokens = this.rounds.reduce((sum, round) => sum + round.accepted + round.own, 0);
    $("request-note").textContent = this.rounds.length
      ? `${this.rounds.length} rounds, ${tokens} tokens${missing ? `; ${missing} more rounds are not kept` : ""}`
      : "Nothing is kept of its rounds.";
    this.show(0);
  }

  show(place) {
    this.place = place;
    const round = this.rounds[place];
    if (!round) return;
    this.ribbon.mark(place);
    $("request-round").replaceChildren(...roundCard(round, this.rounds.length), element("p", { className: "empty", text: "Arrow keys move between rounds." }));
  }
}
