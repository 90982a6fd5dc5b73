// The last minutes, by the second, and what is read from them: shares, rates, acceptance. Seconds that are absent had no
// rounds.
import { PLAIN } from "./palette.js";

export const SMOOTH_S = 5;

export class History {
  constructor() {
    this.points = new Map();
    this.span = 300;
    this.now = 0; // the first second that is not over
  }

  restart(hello) {
    this.points.clear();
    this.span = hello.history_s;
    for (const point of hello.points) this.points.set(point.t, point);
    this.now = hello.now;
  }

  // Seconds of which no message told were like the last one, without rounds.
  add(point) {
    const before = this.last;
    for (let t = this.now; before && t < point.t; t += 1) {
      this.points.set(t, { ...before, t, tokens: 0, rounds: {}, judged: {}, accepted: {} });
    }
    this.points.set(point.t, point);
    this.now = Math.max(this.now, point.t + 1);
    for (const t of this.points.keys()) {
      if (t >= this.now - this.span) break;
      this.points.delete(t);
    }
  }

  get last() {
    return this.points.get(this.now - 1);
  }

  seconds(span) {
    return Array.from({ length: span }, (_, place) => this.now - span + place);
  }

  // Points of the seconds (end - span, end].
  window(end, span) {
    const found = [];
    for (let t = end - span + 1; t <= end; t += 1) {
      const point = this.points.get(t);
      if (point) found.push(point);
    }
    return found;
  }

  // Who pulled in the seconds that are held.
  pullers() {
    return new Set([...this.points.values()].flatMap((point) => Object.keys(point.rounds)));
  }

  // Rounds by drafter over a window, and their sum.
  rounds(end, span = SMOOTH_S) {
    const by = {};
    let total = 0;
    for (const point of this.window(end, span)) {
      for (const [name, count] of Object.entries(point.rounds)) {
        by[name] = (by[name] || 0) + count;
        total += count;
      }
    }
    return { by, total };
  }

  rate(end, span = SMOOTH_S) {
    return this.window(end, span).reduce((sum, point) => sum + point.tokens, 0) / span;
  }

  // Shares by name at each second, as numbers that add up to 1; null where there was nothing.
  shares(kind, seconds, names) {
    const rows = names.map(() => []);
    for (const t of seconds) {
      const { by, total } = kind === "weights" ? weightsOf(this.points.get(t)) : this.rounds(t);
      names.forEach((name, place) => rows[place].push(total ? (by[name] || 0) / total : null));
    }
    return rows;
  }

  values(seconds, read) {
    return seconds.map((t) => {
      const point = this.points.get(t);
      const value = point ? read(point) : null;
      return value === undefined ? null : value;
    });
  }

  // Acceptance by drafter and place over the last seconds: [judged, accepted] of each.
  acceptance(span) {
    const found = {};
    for (const point of this.window(this.now - 1, span)) {
      for (const [name, judged] of Object.entries(point.judged)) {
        const row = (found[name] = found[name] || { judged: [], accepted: [] });
        add(row.judged, judged);
        add(row.accepted, point.accepted[name] || []);
      }
    }
    return found;
  }
}

function add(sums, values) {
  values.forEach((value, place) => {
    sums[place] = (sums[place] || 0) + value;
  });
}

function weightsOf(point) {
  if (!point || !point.weights) return { by: {}, total: 0 };
  return { by: withPlain(point.weights), total: 1 };
}

// What weights leave to 1 is plain decoding's.
export function withPlain(weights) {
  const rest = 1 - Object.values(weights).reduce((sum, weight) => sum + weight, 0);
  return rest > 0.005 ? { ...weights, [PLAIN]: rest } : weights;
}
