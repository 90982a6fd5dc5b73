// A colour for each drafter, by the order in which they came, and grey for what the target does itself. Twelve colours
// that stay apart for the common kinds of colour-blindness; the second six are also hatched, and names stand beside
// them everywhere. A drafter that went keeps its colour: what it did is still shown.

export const PLAIN = "plain";
const COLOURS = 12;
const places = new Map();
let there = [];

// The drafters that there are now.
export function learn(drafters) {
  there = drafters.map(({ name }) => name);
  there.forEach(place);
}

export function present() {
  return [PLAIN, ...there];
}

// All that ever were, as far as this page knows, and those of `also`.
export function names(also = []) {
  for (const name of also) if (name && name !== PLAIN) place(name);
  return [PLAIN, ...places.keys()];
}

function place(name) {
  if (!places.has(name)) places.set(name, places.size);
  return places.get(name) % COLOURS;
}

export function classOf(name) {
  if (!name || name === PLAIN) return "d-plain";
  const at = place(name);
  return at < COLOURS / 2 ? `d-${at}` : `d-${at} hatched`;
}

export function css(variable) {
  return getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
}

export function colourOf(name) {
  return css(!name || name === PLAIN ? "--d-plain" : `--d-${place(name)}`);
}

// What a canvas fills a drafter's area with.
export function fillOf(name, context) {
  const colour = colourOf(name);
  if (!name || name === PLAIN || place(name) < COLOURS / 2) return colour;
  const size = 12 * devicePixelRatio;
  const tile = document.createElement("canvas");
  tile.width = tile.height = size;
  const pen = tile.getContext("2d");
  pen.fillStyle = colour;
  pen.fillRect(0, 0, size, size);
  pen.strokeStyle = css("--hatch");
  pen.lineWidth = size / 7;
  for (const shift of [-size, 0, size]) {
    pen.beginPath();
    pen.moveTo(shift - 1, size + 1);
    pen.lineTo(shift + size + 1, -1);
    pen.stroke();
  }
  return context.createPattern(tile, "repeat");
}

export function swatch(name) {
  const mark = document.createElement("i");
  mark.className = `swatch ${classOf(name)}`;
  mark.setAttribute("aria-hidden", "true");
  return mark;
}
