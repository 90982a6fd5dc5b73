// A ribbon of rounds: one column each, a block per token. From below: what was accepted of the draft, the target's own
// token, and pale what was drafted and rejected.
import { classOf } from "./palette.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDE = 9; // a column
const HIGH = 7; // a token in it

export class Ribbon {
  // onPick gets a round's place when its column is pointed at or clicked.
  constructor(svg, onPick) {
    this.svg = svg;
    this.clear();
    const pick = (event) => {
      const column = event.target.closest?.("g");
      if (column) onPick(Number(column.dataset.place));
    };
    svg.addEventListener("pointerover", pick);
    svg.addEventListener("click", pick);
  }

  clear() {
    this.svg.replaceChildren();
    this.columns = 0;
    this.highest = 0;
  }

  // round: {drafter, drafted, accepted, own}; `own` are tokens that the target added.
  add(round, says) {
    const column = document.createElementNS(SVG, "g");
    column.dataset.place = this.columns;
    const title = document.createElementNS(SVG, "title");
    title.textContent = says;
    column.append(title);
    let height = 0;
    const blocks = (count, className) => {
      for (let at = 0; at < count; at += 1) {
        height += HIGH;
        const place = { x: this.columns * WIDE + 1, y: -height, width: WIDE - 2, height: HIGH - 1, rx: 1 };
        const block = document.createElementNS(SVG, "rect");
        for (const [name, value] of Object.entries(place)) block.setAttribute(name, value);
        block.setAttribute("class", className);
        column.append(block);
      }
    };
    blocks(round.accepted, `full ${classOf(round.drafter)}`);
    blocks(round.own, "full d-plain");
    blocks(round.drafted - round.accepted, `hollow ${classOf(round.drafter)}`);
    this.svg.append(column);
    this.columns += 1;
    this.highest = Math.max(this.highest, height);
    const width = this.columns * WIDE;
    this.svg.setAttribute("viewBox", `0 ${-this.highest} ${width} ${this.highest}`);
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", this.highest);
  }

  mark(place) {
    this.svg.querySelector(".picked")?.classList.remove("picked");
    this.svg.children[place]?.classList.add("picked");
  }
}
