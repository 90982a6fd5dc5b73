// Charts over the last seconds, drawn by uPlot: one of stacked shares, and small ones of lines. Each redraws itself when
// its box or the theme changes, and says so where there is nothing to draw.
import { css, fillOf, swatch } from "./palette.js";

const FONT = "11px system-ui, sans-serif";
const LABEL_PX = 15; // a band that is lower than this gets no name
const WAITING = "Waiting for the server…"; // until something is shown; index.html says the same in what is not a chart

class Chart {
  constructor(box, emptyText) {
    this.box = box;
    this.plot = null;
    this.shape = "";
    this.data = null;
    this.empty = document.createElement("p");
    this.empty.className = "empty";
    this.empty.textContent = WAITING;
    this.emptyText = emptyText;
    this.tip = document.createElement("div");
    this.tip.className = "chart-tip";
    this.tip.hidden = true;
    this.tip.setAttribute("aria-hidden", "true");
    box.append(this.empty, this.tip);
    new ResizeObserver(() => this.resize()).observe(box);
    document.addEventListener("themechange", () => {
      this.shape = "";
      this.draw();
    });
  }

  get size() {
    return { width: this.box.clientWidth, height: this.box.clientHeight };
  }

  resize() {
    if (!this.box.clientWidth) return;
    if (this.plot) this.plot.setSize(this.size);
    else this.draw();
  }

  // `shape` tells when the chart has to be made anew, rather than given new data.
  show(data, shape, hasData) {
    this.data = data;
    this.wanted = shape;
    if (this.empty.textContent !== this.emptyText) this.empty.textContent = this.emptyText;
    this.empty.hidden = hasData;
    this.draw();
  }

  draw() {
    if (!this.data || !this.box.clientWidth) return;
    if (this.plot && this.shape === this.wanted) {
      this.plot.setData(this.data);
      return;
    }
    if (this.plot) this.plot.destroy();
    this.shape = this.wanted;
    const options = {
      ...this.size,
      padding: [8, 18, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      hooks: { setCursor: [(plot) => this.point(plot)], draw: [(plot) => this.name(plot)] },
      ...this.options(),
    };
    this.plot = new uPlot(options, this.data, this.box);
  }

  name() {}

  point(plot) {
    const { idx, left } = plot.cursor;
    const rows = idx == null || left < 0 ? [] : this.rows(idx);
    this.tip.hidden = !rows.length;
    if (!rows.length) return;
    const ago = this.data[0][this.data[0].length - 1] - this.data[0][idx];
    const head = document.createElement("p");
    head.textContent = ago ? `${ago} s ago` : "now";
    this.tip.replaceChildren(head, ...rows);
    const x = left + plot.bbox.left / devicePixelRatio;
    const flip = x > this.box.clientWidth / 2;
    this.tip.style.left = flip ? "" : `${x + 14}px`;
    this.tip.style.right = flip ? `${this.box.clientWidth - x + 14}px` : "";
  }
}

function tipRow(mark, name, value) {
  const row = document.createElement("p");
  const label = document.createElement("span");
  label.textContent = name;
  const figure = document.createElement("b");
  figure.textContent = value;
  row.append(mark, label, figure);
  return row;
}

function timeAxis(span) {
  const step = span > 200 ? 60 : span > 90 ? 30 : 15;
  return {
    scale: "x",
    stroke: css("--muted"),
    font: FONT,
    size: 24,
    gap: 4,
    grid: { stroke: css("--grid"), width: 1 },
    ticks: { show: false },
    splits: (plot, axis, min, max) => {
      const found = [];
      for (let t = max; t >= min; t -= step) found.unshift(t);
      return found;
    },
    values: (plot, splits) => {
      const end = splits[splits.length - 1];
      return splits.map((t) => (t === end ? "now" : (end - t) % 60 === 0 ? `−${(end - t) / 60} min` : `−${end - t} s`));
    },
  };
}

const COUNTS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

function valueAxis(unit, format, counts = false) {
  return {
    ...(counts ? { incrs: COUNTS } : {}),
    scale: "y",
    stroke: css("--muted"),
    font: FONT,
    size: 44,
    gap: 4,
    label: unit,
    labelSize: 16,
    labelFont: FONT,
    labelGap: 0,
    grid: { stroke: css("--grid"), width: 1 },
    ticks: { show: false },
    space: 36,
    values: (plot, splits) => splits.map(format),
  };
}

const ALL_OF_X = { x: { time: false, range: (plot, min, max) => [min, max] } };

export class ShareChart extends Chart {
  // names: from the bottom; rows: [names][seconds] of shares or null
  update(seconds, names, rows, unit) {
    const used = names.map((_, place) => place).filter((place) => rows[place].some((share) => share > 0));
    this.names = used.map((place) => names[place]);
    this.values = used.map((place) => rows[place]);
    const sums = [];
    this.values.forEach((row, place) => {
      sums.push(row.map((share, at) => (share === null ? null : share + (place ? sums[place - 1][at] : 0))));
    });
    this.unit = unit;
    this.seconds = seconds.length;
    // The highest first: each lower one is painted over it.
    this.show([seconds, ...sums.reverse()], `${unit} ${seconds.length} ${this.names.join(" ")}`, used.length > 0);
  }

  options() {
    const line = css("--surface");
    return {
      scales: { ...ALL_OF_X, y: { range: [0, 1] } },
      axes: [timeAxis(this.seconds), valueAxis(this.unit, (share) => `${Math.round(share * 100)} %`)],
      series: [
        {},
        ...[...this.names].reverse().map((name) => ({
          label: name,
          stroke: line,
          width: 1,
          fill: (plot) => fillOf(name, plot.ctx),
          points: { show: false },
        })),
      ],
    };
  }

  rows(at) {
    return this.names
      .map((name, place) => [name, this.values[place][at]])
      .filter(([, share]) => share > 0.004)
      .sort((a, b) => b[1] - a[1])
      .map(([name, share]) => tipRow(swatch(name), name, `${Math.round(share * 100)} %`));
  }

  // Names in the bands, where they are high enough at their right end.
  name(plot) {
    const pen = plot.ctx;
    const scale = devicePixelRatio;
    const last = this.data[0].length - 1;
    pen.save();
    pen.font = `600 ${11 * scale}px system-ui, sans-serif`;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    let below = 0;
    this.names.forEach((name, place) => {
      const share = this.values[place][last];
      if (share === null || share === undefined) return;
      const top = plot.valToPos(below + share, "y", true);
      const bottom = plot.valToPos(below, "y", true);
      below += share;
      if (bottom - top < LABEL_PX * scale) return;
      const x = plot.bbox.left + plot.bbox.width - 8 * scale;
      const y = (top + bottom) / 2;
      const width = pen.measureText(name).width;
      pen.fillStyle = css("--label-back");
      pen.beginPath();
      pen.roundRect(x - width - 5 * scale, y - 7.5 * scale, width + 10 * scale, 15 * scale, 4 * scale);
      pen.fill();
      pen.fillStyle = css("--text");
      pen.fillText(name, x, y + 0.5 * scale);
    });
    pen.restore();
  }
}

export class LineChart extends Chart {
  // lines: [{name, colour (a CSS variable), fill, dash, stepped}]
  constructor(box, keys, { unit, format, lines, emptyText, counts = false }) {
    super(box, emptyText);
    Object.assign(this, { unit, format, lines, counts });
    keys.append(
      ...lines.map(({ name, kind }) => {
        const key = document.createElement("span");
        const mark = document.createElement("i");
        mark.className = `line-key ${kind}`;
        key.append(mark, name);
        return key;
      }),
    );
  }

  update(seconds, rows) {
    this.seconds = seconds.length;
    this.show([seconds, ...rows], `${seconds.length}`, rows.some((row) => row.some((value) => value)));
  }

  options() {
    return {
      scales: { ...ALL_OF_X, y: { range: (plot, min, max) => [0, max > 0 ? max * 1.15 : 1] } },
      axes: [timeAxis(this.seconds), valueAxis(this.unit, this.format, this.counts)],
      series: [
        {},
        ...this.lines.map(({ name, colour, kind, stepped }) => ({
          label: name,
          stroke: css(colour),
          width: kind === "thin" || kind === "dashed" ? 1.5 : 2,
          dash: kind === "dashed" ? [5, 4] : undefined,
          fill: kind === "filled" ? css(`${colour}-soft`) : undefined,
          paths: stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
          points: { show: false },
        })),
      ],
    };
  }

  rows(at) {
    return this.lines.flatMap(({ name, kind }, place) => {
      const value = this.data[place + 1][at];
      if (value === null || value === undefined) return [];
      const mark = document.createElement("i");
      mark.className = `line-key ${kind}`;
      return [tipRow(mark, name, `${this.format(value)} ${this.unit}`)];
    });
  }
}

