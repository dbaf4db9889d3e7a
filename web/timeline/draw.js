/** What is drawn on canvases: ruler, noise, the schedule over the steps, overview. */
/** @import {View} from "./types" */

import { STRIDE, clamp, mix, sigmaAt } from "./format.js";

export const GUTTER = 52;
export const RULER = 30, ITEMS = 66, NOISE = 62, HEAT = 62; // heights of the lanes, in pixels
export const NOISE_TOP = RULER + ITEMS, BAR = NOISE - 14, BAR_BOTTOM = NOISE_TOP + NOISE - 3;
const HEAT_TOP = NOISE_TOP + NOISE + 4, BOTTOM = NOISE_TOP + NOISE + HEAT, OVERVIEW = 16;
const LONG = 60, NARROWEST = 14; // a video of more latent frames is not squeezed below so many pixels for each
const FOLDED = 0.18; // of another frame's width
const CLEAN_TO_NOISE = [[255, 234, 70], [188, 175, 111], [124, 123, 120], [65, 77, 107], [0, 32, 77]]; // as in pusa_core/figures.py

const COLOURS = Array.from({ length: 257 }, (_, i) => {
  const low = Math.min(Math.floor(i / 64), 3);
  return `rgb(${CLEAN_TO_NOISE[low].map((v, c) => Math.round(mix(v, CLEAN_TO_NOISE[low + 1][c], i / 64 - low)))})`;
});
export const colourOf = (sigma) => COLOURS[Math.round(256 * clamp(sigma, 0, 1))];
const noiseOf = (frame) => frame.knots[frame.knots.length - 1][1];

/** Edges of the latent frames. Folded, those that lie far from every item are narrow. */
export function layout(frames, width, fold) {
  const weights = frames.map((frame, i) => (fold && !frame && !frames[i - 1] && !frames[i + 1] ? FOLDED : 1));
  const unit = Math.max(width / weights.reduce((a, b) => a + b, 0), frames.length > LONG ? NARROWEST : 0);
  const edges = new Float64Array(frames.length + 1);
  weights.forEach((weight, i) => (edges[i + 1] = edges[i] + weight * unit));
  return edges;
}

/** The latent frame at a position. */
export function latentAt(edges, x) {
  let [low, high] = [0, edges.length - 2];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (edges[middle] <= x) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Calls `each(first, after the last)` for visible frames; ordinary neighbours come together. */
function forRuns({ edges, frames, scroll, width }, each) {
  const last = latentAt(edges, scroll + width);
  for (let i = latentAt(edges, scroll), end; i <= last; i = end) {
    for (end = i + 1; end <= last && !frames[i] && !frames[end]; end++);
    each(i, end);
  }
}

function prepare(canvas, width, height, { ratio }) {
  const size = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const c = canvas.getContext("2d");
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  c.clearRect(0, 0, width, height);
  c.font = "10px system-ui, sans-serif";
  c.textBaseline = "middle";
  return c;
}

/** @param {View} view */
export function draw(canvas, view, theme) {
  const c = prepare(canvas, view.width + GUTTER, BOTTOM, theme);
  const fill = (style, alpha, ...box) => {
    c.fillStyle = style;
    c.globalAlpha = alpha;
    c.fillRect(...box);
  };
  const write = (text, x, y, alpha = 1, style = theme.ink) => {
    c.fillStyle = style;
    c.globalAlpha = alpha;
    c.fillText(text, x, y);
  };
  drawLabels(c, write);
  c.save();
  c.beginPath();
  c.rect(GUTTER, 0, view.width, BOTTOM);
  c.clip();
  c.translate(GUTTER - view.scroll, 0);
  drawRuler(c, view, theme, fill, write);
  drawColumns(view, theme, fill);
  drawNoise(c, view, theme, fill, write);
  drawHeat(c, view, fill, write);
  if (view.ghost) drawGhost(c, view, theme, fill, write);
  c.restore();
}

function drawLabels(c, write) {
  c.textAlign = "right";
  for (const [text, y] of [["frame", 9], ["noise", NOISE_TOP + 31], ["sigma", HEAT_TOP + 28]]) write(text, GUTTER - 7, y, 0.85);
  const ends = [["seconds", 20], ["1", NOISE_TOP + 11], ["0", BAR_BOTTOM - 2], ["step 1", HEAT_TOP + 7], ["last", BOTTOM - 6]];
  for (const [text, y] of ends) write(text, GUTTER - 7, y, 0.5);
}

function drawRuler(c, { edges, scroll, width, fps }, theme, fill, write) {
  const last = edges.length - 2;
  const middle = (i) => (edges[i] + edges[i + 1]) / 2;
  const every = [1, 2, 4, 8, 16, 32].find((n) => (n * edges[last + 1]) / (last + 1) >= 34) ?? 64;
  const to = latentAt(edges, scroll + width);
  for (let i = latentAt(edges, scroll), free = -1; i <= to; i++) {
    const x = middle(i);
    const labelled = i === last || (i % every === 0 && x >= free && x < middle(last) - 30);
    fill(theme.ink, labelled ? 0.5 : 0.22, x - 0.5, 26, 1, 4);
    if (!labelled) continue;
    free = x + 30;
    c.textAlign = "center";
    const shown = clamp(x, scroll + 9, scroll + width - 11);
    write(STRIDE * i, shown, 9, 0.85);
    write(+((STRIDE * i) / fps).toFixed(2), shown, 20, 0.5);
  }
}

function drawColumns({ edges, frames, scroll, width, selected }, theme, fill) {
  fill(theme.ink, 0.05, scroll, RULER, width, ITEMS);
  const to = latentAt(edges, scroll + width);
  for (let i = latentAt(edges, scroll); i <= to; i++) {
    const [x, w, frame] = [edges[i], edges[i + 1] - edges[i], frames[i]];
    for (const [top, tall] of [[RULER, ITEMS], [BAR_BOTTOM - BAR, BAR]]) {
      if (w > 6) fill(theme.ink, 0.09, x + w - 0.5, top, 1, tall);
    }
    if (frame?.item) fill(frame.item === selected ? theme.accent : theme.ink, 1, x + 1, NOISE_TOP - 2, w - 2, 2);
  }
}

function drawNoise(c, view, theme, fill, write) {
  c.textAlign = "center";
  forRuns(view, (from, to) => {
    const [x, w, frame] = [view.edges[from] + 0.5, view.edges[to] - view.edges[from] - 1, view.frames[from]];
    fill(theme.ink, frame ? 0.1 : 0.06, x, BAR_BOTTOM - BAR, w, BAR);
    if (!frame) return;
    const noise = noiseOf(frame);
    const y = BAR_BOTTOM - noise * BAR;
    fill(colourOf(noise), frame.item ? 1 : 0.55, x, y, w, BAR_BOTTOM - y);
    fill(frame.item && frame.item === view.selected ? theme.accent : theme.ink, 1, x, y - 1, w, 2);
    if (w >= 16) write(String(+noise.toFixed(2)).replace(/^0\./, "."), x + w / 2, y - 8);
    if (frame.hold && w >= 8) write("H", x + w / 2, BAR_BOTTOM - 6, 1, "#14161c");
  });
}

function drawHeat(c, view, fill, write) {
  const { sigmas, boundary, edges, scroll, width } = view;
  const row = (HEAT - 6) / (sigmas.length - 1);
  forRuns(view, (from, to) => {
    const knots = view.frames[from]?.knots;
    const gap = knots ? 0.5 : 0;
    for (let step = 0; step < sigmas.length - 1; step++) {
      const sigma = knots ? sigmaAt(knots, sigmas[step]) : sigmas[step];
      fill(colourOf(sigma), 1, edges[from] + gap, HEAT_TOP + step * row, edges[to] - edges[from] - 2 * gap, row + (row < 3 ? 0.6 : -0.5));
    }
  });
  const step = boundary == null ? -1 : sigmas.findIndex((sigma) => sigma < boundary);
  if (step < 1) return;
  const y = HEAT_TOP + step * row;
  fill("#000", 1, scroll, y - 1.5, width, 3);
  for (let x = scroll; x < scroll + width; x += 9) fill("#fff", 1, x, y - 0.5, 5, 1.5);
  const text = `low-noise model below ${boundary}`;
  c.textAlign = "right";
  fill("#000", 0.8, scroll + width - c.measureText(text).width - 12, y + 3, 400, 13);
  write(text, scroll + width - 6, y + 10, 1, "#fff");
}

function drawGhost(c, { edges, scroll, width, ghost: { first, last, text } }, { accent, paper }, fill, write) {
  const [left, wide] = [edges[first], edges[last + 1] - edges[first]];
  fill(accent, 0.16, left, RULER, wide, BOTTOM - RULER);
  c.globalAlpha = 1;
  c.strokeStyle = accent;
  c.lineWidth = 1.5;
  c.setLineDash([4, 3]);
  c.strokeRect(left + 0.75, RULER + 0.75, wide - 1.5, BOTTOM - RULER - 3);
  c.setLineDash([]);
  const label = c.measureText(text).width + 12;
  const x = clamp(left + (wide - label) / 2, scroll, scroll + width - label);
  fill(accent, 1, x, 5, label, 17);
  c.textAlign = "left";
  write(text, x + 6, 14, 1, paper);
}

/** The whole video in small, and the part of it that the lanes show. */
export function drawOverview(canvas, { width, scroll, edges, frames, selected }, { ratio, ink, accent }) {
  const c = prepare(canvas, width + GUTTER, OVERVIEW, { ratio });
  const scale = width / edges[edges.length - 1];
  c.translate(GUTTER, 0);
  c.fillStyle = c.strokeStyle = ink;
  c.globalAlpha = 0.08;
  c.fillRect(0, 3, width, OVERVIEW - 6);
  c.globalAlpha = 1;
  frames.forEach((frame, i) => {
    if (!frame) return;
    c.fillStyle = frame.item && frame.item === selected ? accent : colourOf(noiseOf(frame));
    c.fillRect(edges[i] * scale, 3, Math.max(2, (edges[i + 1] - edges[i]) * scale), OVERVIEW - 6);
  });
  c.lineWidth = 1.5;
  c.strokeRect(scroll * scale + 0.75, 1, width * scale - 1.5, OVERVIEW - 2);
}
