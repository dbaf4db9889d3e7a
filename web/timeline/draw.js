/** What is drawn on canvases: ruler, noise, the schedule over the steps, overview. */

import { STRIDE, clamp, mix, sigmaAt, startOf } from "./format.js";
import { t } from "./words.js";

const RULER = 30, ITEMS = 66, NOISE = 62, HEAT = 58, OVERVIEW = 16; // heights in pixels
export const NOISE_TOP = RULER + ITEMS, BAR = NOISE - 14, BAR_BOTTOM = NOISE_TOP + NOISE - 3;
const HEAT_TOP = NOISE_TOP + NOISE + 4, BOTTOM = HEAT_TOP + HEAT;
const LONG = 60, NARROWEST = 16; // above so many latent frames, each has at least so many pixels
const FOLDED = 0.18; // of another frame's width
const CLEAN_TO_NOISE = [[255, 234, 70], [188, 175, 111], [124, 123, 120], [65, 77, 107], [0, 32, 77]]; // as in pusa_core/figures.py

export function colourOf(sigma) {
	const low = clamp(Math.floor(4 * sigma), 0, 3);
	return `rgb(${CLEAN_TO_NOISE[low].map((v, c) => Math.round(mix(v, CLEAN_TO_NOISE[low + 1][c], 4 * sigma - low)))})`;
}
const noiseOf = ({ knots }) => knots.at(-1)[1];

/** Edges of the latent frames. Folded, those that lie far from every item are narrow. */
export function layout(frames, width, fold) {
	const weights = frames.map((frame, i) => (fold && !frame && !frames[i - 1] && !frames[i + 1] ? FOLDED : 1));
	const unit = Math.max(width / weights.reduce((a, b) => a + b), frames.length > LONG ? NARROWEST : 0), edges = [0];
	weights.forEach((weight, i) => edges.push(edges[i] + weight * unit));
	return edges;
}

export function latentAt(edges, x) {
	const behind = edges.findIndex((edge, i) => i && edge > x);
	return (behind < 0 ? edges.length - 1 : behind) - 1;
}

/** Calls `each` for what is visible; ordinary neighbours come together, if wanted. */
function forFrames({ edges, frames, scroll, width }, together, each) {
	const last = latentAt(edges, scroll + width);
	for (let i = latentAt(edges, scroll), end; i <= last; i = end) {
		for (end = i + 1; together && end <= last && !frames[i] && !frames[end]; end++);
		each(edges[i], edges[end] - edges[i], frames[i], i);
	}
}

function prepare(canvas, view, height) {
	const { ratio, width } = view;
	Object.assign(canvas, { width: Math.round(width * ratio), height: height * ratio }); // and empty
	const c = canvas.getContext("2d");
	c.scale(ratio, ratio);
	Object.assign(c, { font: "10px system-ui, sans-serif", textBaseline: "middle", textAlign: "center", lineWidth: 1.5 });
	const use = (fillStyle, globalAlpha) => Object.assign(c, { fillStyle, globalAlpha });
	const fill = (style, alpha, ...box) => use(style, alpha).fillRect(...box);
	const write = (text, x, y, alpha = 1, style = view.ink) => use(style, alpha).fillText(text, x, y);
	return { ...view, c, fill, write };
}

export function draw(canvas, view) {
	const pen = prepare(canvas, view, BOTTOM);
	pen.c.translate(-view.scroll, 0);
	for (const part of [drawRuler, drawNoise, drawHeat, drawSwitch, drawGhost]) part(pen);
}

function drawRuler(pen) {
	const { fill, write, edges, scroll, width, fps, ink } = pen;
	const last = edges.length - 2;
	const every = 2 ** Math.max(0, Math.ceil(Math.log2((34 * edges.length) / edges[last + 1])));
	let free = -1;
	fill(ink, 0.05, scroll, RULER, width, ITEMS);
	forFrames(pen, false, (left, w, _, i) => {
		const x = left + w / 2;
		if (w > 6) fill(ink, 0.09, left + w - 0.5, RULER, 1, BAR_BOTTOM - RULER);
		const isLabelled = i === last || (i % every === 0 && x >= free && x < edges[last] - 24);
		fill(ink, isLabelled ? 0.5 : 0.22, x - 0.5, 26, 1, 4);
		if (!isLabelled) return;
		free = x + 30;
		const shown = clamp(x, scroll + 9, scroll + width - 11);
		write(STRIDE * i, shown, 9, 0.85);
		write(+((STRIDE * i) / fps).toFixed(2), shown, 20, 0.6);
	});
}

function drawNoise(pen) {
	const { fill, write, selected, ink, accent } = pen;
	forFrames(pen, true, (left, wide, frame) => {
		const [x, w] = [left + 0.5, wide - 1];
		fill(ink, frame ? 0.1 : 0.06, x, BAR_BOTTOM - BAR, w, BAR);
		if (!frame) return;
		const noise = noiseOf(frame), y = BAR_BOTTOM - noise * BAR;
		const mark = frame.item === selected ? accent : ink;
		fill(colourOf(noise), frame.item ? 1 : 0.55, x, y, w, BAR_BOTTOM - y);
		fill(mark, 1, x, y - 1, w, 2);
		if (frame.item) fill(mark, 1, x, NOISE_TOP - 2, w, 2);
		if (w >= 16) write(String(+noise.toFixed(2)).replace(/^0\./, "."), x + w / 2, y - 8);
		if (frame.hold && w >= 8) write("H", x + w / 2, BAR_BOTTOM - 6, 1, "#14161c");
	});
}

/** The visible frames' steps, from the first's first to the last's last. */
function drawHeat(pen) {
	const { fill, frames, edges, scroll, width, sigmas, steps, ar_step, moving_frames } = pen;
	const given = [...frames, null].findIndex((frame) => !frame || (!frame.hold && noiseOf(frame) === 1));
	const [from, last] = [scroll, scroll + width].map((x) => startOf(pen, latentAt(edges, x) - given));
	const count = last + steps - from, tall = HEAT / Math.min(HEAT, count);
	forFrames(pen, !ar_step, (x, w, frame, i) => {
		for (let y = 0; y < HEAT - 0.1; y += tall) {
			const taken = from + Math.round((y / HEAT) * count) - startOf(pen, i - given);
			const sigma = moving_frames && i < given ? 0 : sigmas[clamp(taken, 0, steps)];
			fill(colourOf(frame ? sigmaAt(frame.knots, sigma) : sigma), 1, x + 0.5, HEAT_TOP + y, w - 1, tall + 0.6);
		}
	});
}

function drawSwitch(pen) {
	const { fill, sigmas, steps, boundary, ar_step, scroll, width } = pen;
	const step = sigmas.findIndex((sigma) => sigma < boundary);
	if (step < 1 || ar_step) return;
	const [y, end] = [HEAT_TOP + (step * HEAT) / steps, scroll + width];
	fill("#000", 1, scroll, y - 1.5, width, 3);
	for (let x = scroll; x < end; x += 9) fill("#fff", 1, x, y - 0.5, 5, 1.5);
	drawText(pen, t("lowNoise", { sigma: boundary }), end, Math.min(y + 3, BOTTOM - 16));
}

function drawText({ c, fill, write, scroll, width, accent, paper }, text, middle, y) {
	const wide = c.measureText(text).width + 12;
	const x = clamp(middle - wide / 2, scroll + 1, scroll + width - wide - 1);
	fill(accent, 1, x - 1, y - 1, wide + 2, 17);
	fill(paper, 1, x, y, wide, 15);
	write(text, x + wide / 2, y + 8);
}

function drawGhost(pen) {
	const { c, fill, edges, ghost, accent } = pen;
	if (!ghost) return;
	const { first, count, text } = ghost;
	const [left, wide] = [edges[first], edges[first + count] - edges[first]];
	fill(accent, 0.16, left, RULER, wide, BOTTOM - RULER);
	Object.assign(c, { globalAlpha: 1, strokeStyle: accent }).setLineDash([4, 3]);
	c.strokeRect(left + 0.75, RULER + 0.75, wide - 1.5, BOTTOM - RULER - 3);
	drawText(pen, text, left + wide / 2, 6);
}

export function drawOverview(canvas, view) {
	const { c, fill, width, scroll, edges, frames, selected, ink, accent } = prepare(canvas, view, OVERVIEW);
	const scale = width / edges[frames.length];
	fill(ink, 0.08, 0, 3, width, OVERVIEW - 6);
	frames.forEach((frame, i) => {
		const colour = frame && (frame.item === selected ? accent : colourOf(noiseOf(frame)));
		if (colour) fill(colour, 1, edges[i] * scale, 3, Math.max(2, (edges[i + 1] - edges[i]) * scale), OVERVIEW - 6);
	});
	Object.assign(c, { globalAlpha: 1, strokeStyle: ink }).strokeRect(scroll * scale + 0.75, 1, width * scale - 1.5, OVERVIEW - 2);
}
