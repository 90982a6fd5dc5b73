// The playground: one prompt, and its answer with each token in the colour of the drafter that proposed it. What is shown
// is what the API streams: with `paceline.detail` each event tells its round's tokens and the text of each.
import { Refused, call, events } from "./api.js";
import { Answer } from "./answer.js";
import { element } from "./panels.js";
import { present } from "./palette.js";

const $ = (id) => document.getElementById(id);
const SELECTOR = "auto";
const OFF = "off";
const SAMPLES = [
  ["a sum", "A shop sells pens at 3 dollars each. Tom buys 7 pens and pays with a 50 dollar note. How much change does he get? Think step by step."],
  ["code", "Write a Python function that returns the n-th Fibonacci number, with a docstring and three examples."],
  ["SQL", "Write an SQL query that lists each customer's name and the number of orders they placed in 2023, most orders first."],
  ["a story", "Tell a short story about a cyclist who rides at the front of the group."],
];

export class Playground {
  constructor() {
    this.answer = new Answer();
    this.abort = null;
    this.model = null;
    $("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    $("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.send();
      }
    });
    $("stop").addEventListener("click", () => this.abort?.abort());
    for (const [name, text] of SAMPLES) {
      const button = element("button", { type: "button", text: name, title: text });
      button.addEventListener("click", () => {
        $("prompt").value = text;
        $("prompt").focus();
      });
      $("samples").append(button);
    }
    this.offer();
  }

  // What a server serves, each time the link to it opens.
  serve({ model }) {
    this.model = model;
  }

  // The drafters that there are now. A list that is right stays as it is, since somebody may be choosing from it.
  offer() {
    const before = $("drafter").value || SELECTOR;
    const options = [[SELECTOR, "the selector chooses"], [OFF, "none: plain decoding"]];
    for (const name of present().slice(1)) options.push([`only ${name}`, `always ${name}`]);
    if (options.map(([value]) => value).join("\n") === [...$("drafter").options].map(({ value }) => value).join("\n")) return;
    $("drafter").replaceChildren(...options.map(([value, text]) => element("option", { value, text })));
    $("drafter").value = options.some(([value]) => value === before) ? before : SELECTOR;
  }

  request() {
    const drafter = $("drafter").value;
    const paceline = { detail: true };
    if (drafter === OFF) paceline.enabled = false;
    else if (drafter !== SELECTOR) paceline.drafter = drafter.slice("only ".length);
    return {
      model: this.model,
      messages: [{ role: "user", content: $("prompt").value.trim() }],
      temperature: Number($("temperature").value),
      max_tokens: Number($("max-tokens").value),
      stream: true,
      paceline,
    };
  }

  async send() {
    if (this.abort || !$("prompt").value.trim() || !$("ask").reportValidity()) return;
    if (!this.model) {
      this.say("No server has answered yet.", true);
      return;
    }
    this.abort = new AbortController();
    this.busy(true);
    this.say("waiting for the first token");
    this.answer.begin();
    const began = performance.now();
    let first = null;
    let reason = "";
    try {
      const reply = await call("v1/chat/completions", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(this.request()),
        signal: this.abort.signal,
      });
      for await (const event of events(reply)) {
        if (first === null) {
          first = performance.now();
          this.say("answering");
        }
        this.answer.add(event.paceline, event.choices[0]?.delta.content || "");
        reason = event.choices[0]?.finish_reason || reason;
      }
      this.say(this.summary(began, first, { stop: "finished", length: "token limit reached" }[reason] || reason));
    } catch (error) {
      if (error.name === "AbortError") this.say(this.summary(began, first, "stopped"));
      else this.say(error instanceof Refused ? error.message : `The answer broke off: ${error.message}`, true);
    } finally {
      this.abort = null;
      this.busy(false);
      this.answer.end();
    }
  }

  summary(began, first, how) {
    const { tokens, rounds } = this.answer;
    if (!tokens) return how;
    const taken = (performance.now() - began) / 1000;
    const wait = first === null ? "" : `, first after ${Math.round(first - began)} ms`;
    return `${how}: ${tokens} tokens in ${taken.toFixed(1)} s (${(tokens / taken).toFixed(0)} tokens/s${wait}), ${(tokens / rounds.length).toFixed(2)} per round`;
  }

  busy(on) {
    const focused = document.activeElement;
    $("send").hidden = on;
    $("stop").hidden = !on;
    if (focused === $("send") && on) $("stop").focus();
    if (focused === $("stop") && !on) $("send").focus();
    document.body.classList.toggle("answering", on);
  }

  say(text, bad = false) {
    $("play-status").textContent = text;
    $("play-status").classList.toggle("bad", bad);
  }
}
