/** The timeline's text, and which latent frames its items fill: as pusa_core has it (tests/timeline_cases.json). */

export const STRIDE = 4;
const KEYS = ["version", "items", "at", "media", "input", "take", "noise", "behaviour"];

export const isFilled = ({ media, input }) => !!(media || input);
export const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
export const mix = (from, to, share) => from + (to - from) * share;

export const latentOf = (frame) => Math.ceil(frame / STRIDE);
export const framesOf = (latent) => [Math.max(0, STRIDE * (latent - 1) + 1), STRIDE * latent];
export const latentsOf = (length) => latentOf(Math.max(1, length) - 1) + 1;

export function parse(text) {
	if (!text?.trim()) return [];
	try {
		const { version, items } = JSON.parse(text);
		return version === 1 && items.every((item) => Number.isInteger(item.at)) ? items : null;
	} catch {
		return null;
	}
}

export const serialize = (items) => JSON.stringify({ version: 1, items }, KEYS);

/** [first, after the last) frame of a clip that an item takes; null where that needs the clip's length. */
export function taken({ take = [0, null] }, total) {
	const frames = take.map((n) => (n == null ? total : n < 0 ? n + total : n));
	return frames.every(Number.isInteger) ? frames : null;
}

function frameCount(item, total) {
	const isFromEnd = item.take?.every((n, i) => n < 0 || (i && !n));
	const frames = taken(item, total ?? (isFromEnd ? 0 : undefined));
	return frames ? Math.max(1, frames[1] - frames[0]) : STRIDE * [item.noise].flat().length - 3;
}

/** Where an item of a clip of `total` frames lands in a video of `length`, and its noise there; at the end if it does not fit. */
export function place(item, length, total) {
	const frames = frameCount(item, total);
	const [count, latents] = [latentOf(frames), latentsOf(length)];
	const isInside = item.at >= -length && item.at < length;
	const frame = isInside ? (item.at + length) % length : item.at, latent = latentOf(frame);
	const fits = isInside && latent + count <= latents && (latent > 0 || frames % STRIDE === 1);
	return { item, first: fits ? latent : Math.max(0, latents - count), count, frames, frame, fits, noise: noiseOf(item, count) };
}

/** `at` and `take` of what goes to a latent frame. At the video's end it stays there; at its start 4n frames become 4n-3. */
export function moved({ count, frames, item: { take } }, first, length) {
	const at = STRIDE * first - (first > 0 && first + count === latentsOf(length) ? length : 0);
	return { at, take: first || frames % STRIDE ? take : [(take?.[0] ?? 0) + 3, take?.[1]] };
}

/** Whether two places share a latent frame. */
export const meet = (one, other) => one.first < other.first + other.count && other.first < one.first + one.count;

export function noiseOf({ noise = 0.2 }, count) {
	const text = String(noise).replace(/(.+)\sto\s(.+)/, count > 1 ? "0:$1,-1:$2" : "$1");
	const knots = text.split(",").map((part, i) => {
		const [x, y] = part.split(":").map(Number);
		return y == null ? [i, x] : [x < 0 ? x + count : x, y];
	});
	const all = [[-1, knots[0][1]], ...knots, [count, knots.at(-1)[1]]];
	return Array.from({ length: count }, (_, i) => clamp(sigmaAt(all, i) || 0, 0, 1));
}

export function setNoise(item, values) {
	const rounded = values.map((value) => +clamp(value, 0, 1).toFixed(3));
	item.noise = new Set(rounded).size === 1 ? rounded[0] : rounded;
}

export function sigmaAt(knots, sigma) {
	let i = 1;
	while (i < knots.length - 1 && knots[i][0] <= sigma) i++;
	const [[x0, y0], [x1, y1]] = [knots[i - 1], knots[i]];
	return mix(y0, y1, (sigma - x0) / (x1 - x0));
}

export function sigmaGrid(steps, shift) {
	return Array.from({ length: steps + 1 }, (_, i) => (shift * (steps - i)) / (i + shift * (steps - i)));
}

/** When a frame takes its first step, `index` counted from the first that is made: as pusa_core/staircase.py. */
export const startOf = ({ steps, ar_step, causal_block_size }, index) => Math.min(ar_step, steps) * Math.floor(Math.max(0, index) / causal_block_size);

/** Frames of a FrameSchedule's JSON that do not just follow the sampler. */
export function readSchedule(text) {
	return Object.entries(JSON.parse(text).keyframes).map(([index, { sigmas, multiplier }]) => [index, sigmas ?? [[0, 0], [1, multiplier]]]);
}

export const PRESETS = await (await fetch(new URL("presets.json", import.meta.url))).json();

export function fitted(item, isClip) {
	if (isClip) return { ...item, take: item.take ?? [0, 1] };
	return { ...item, take: undefined, at: item.take && item.at < 0 ? -1 : item.at, noise: noiseOf(item, 1)[0] };
}

/** In a short video a clip gives fewer frames, so that some are left to make. */
function shortened({ at, take: [from, to], noise, ...rest }, latents) {
	const frames = Math.min(to - from, STRIDE * latents - (at ? 0 : 3));
	const take = from < 0 ? [-frames, null] : [from, from + frames];
	return { ...rest, at: at < 0 ? -frames : at, take, noise: [noise].flat().slice(0, latents) };
}

/** A preset's items, of what is there; what is missing stays an empty place. */
export function arrange({ slots, same, room }, items, length, countOf) {
	if (!slots) return items.map((item) => ({ ...item, behaviour: undefined }));
	const pool = items.filter(isFilled), latents = latentsOf(length);
	return slots.map((slot, index) => {
		const source = pool[same ? 0 : index];
		const count = source ? countOf(source) : Infinity;
		const most = Math.min(Math.floor(room * latents), Math.floor((count - 1) / STRIDE) + 1);
		const item = slot.take ? shortened(slot, Math.max(1, most)) : { ...slot };
		if (item.at === "middle") item.at = STRIDE * (latents >> 1);
		if (item.noise.length === 1) item.noise = item.noise[0];
		return source ? { ...fitted(item, count > 1), media: source.media, input: source.input } : item;
	});
}
