// What is known of one round, as the playground and a request's window show it.
import { withPlain } from "./history.js";
import { PLAIN, classOf, swatch } from "./palette.js";
import { element, milliseconds, percent } from "./panels.js";

const WEIGHTS = 6; // shown

export function heading(round) {
  if (!round.drafted) return `Round ${round.place + 1}: plain`;
  return `Round ${round.place + 1}: ${round.drafter}, ${round.accepted} of ${round.drafted} accepted`;
}

// round: {place, drafter, drafted, accepted, own, weights}, and where they are known verify_ms and wait_ms.
export function roundCard(round, rounds) {
  const name = round.drafted ? round.drafter : PLAIN;
  const weights = Object.entries(round.weights ? withPlain(round.weights) : {}).sort((a, b) => b[1] - a[1]);
  const shown = weights.slice(0, WEIGHTS).filter(([, weight]) => weight >= 0.005);
  const times = [];
  if (round.verify_ms) times.push(`verified in ${milliseconds(round.verify_ms)}`);
  if (round.drafted && round.wait_ms !== undefined) times.push(`waited ${milliseconds(round.wait_ms)} for the draft`);
  return [
    element("p", { className: "round-who" }, swatch(name), element("b", { text: name }),
      element("span", { className: "share", text: `round ${round.place + 1} of ${rounds}` })),
    element("p", { className: "round-what", text: what(round) }),
    ...(times.length ? [element("p", { className: "round-what", text: `${times.join("; ")}.` })] : []),
    ...(shown.length ? [element("h3", { text: "Weights when it was chosen" })] : []),
    element("ul", { className: "legend" }, ...shown.map(([drafter, weight]) => {
      const fill = element("span", { className: `bar-fill ${classOf(drafter)}` });
      fill.style.width = `${100 * weight}%`;
      return element("li", {}, swatch(drafter), element("span", { className: "legend-name", text: drafter }),
        element("span", { className: "bar", "aria-hidden": "true" }, fill),
        element("span", { className: "share", text: percent(weight) }));
    })),
  ];
}

function what({ drafted, accepted, own }) {
  if (!drafted) return "Nothing was drafted; the target made one token by itself.";
  const tail = own ? `, and the target added ${own === 1 ? "one" : own} of its own` : "";
  return `Drafted ${drafted} ${drafted === 1 ? "token" : "tokens"}; ${accepted === drafted ? "all" : accepted || "none"} accepted${tail}.`;
}
