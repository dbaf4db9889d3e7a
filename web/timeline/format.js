/** The timeline's text, and which latent frames its items fill: as pusa_core has it (tests/timeline_cases.json). */

export const STRIDE = 4;
const KEYS = ["at", "media", "input", "take", "noise", "behaviour"];

export const isFilled = (item) => Boolean(item.media || item.input);
export const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
export const mix = (from, to, share) => from + (to - from) * share;

export const latentOf = (frame) => Math.floor((frame + STRIDE - 1) / STRIDE);
export const framesOf = (latent) => (latent === 0 ? [0, 0] : [STRIDE * (latent - 1) + 1, STRIDE * latent]);
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

export function serialize(items) {
	const kept = (item) => KEYS.filter((key) => item[key] != null && item[key] !== "evolve").map((key) => [key, item[key]]);
	return JSON.stringify({ version: 1, items: items.map((item) => Object.fromEntries(kept(item))) });
}

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
	const frame = isInside ? (item.at + length) % length : item.at;
	const latent = latentOf(frame);
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

/** The place nearest to a wanted one that meets none of `others`; null where there is none. */
export function freePlace(others, latents, wanted, count, ways = [1, -1]) {
	for (let distance = 0; distance < latents; distance++) {
		for (const way of ways) {
			const first = wanted + way * distance;
			if (first >= 0 && first + count <= latents && !others.some((at) => meet(at, { first, count }))) return first;
		}
	}
	return null;
}

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
	const rounded = values.map((value) => Math.round(clamp(value, 0, 1) * 1000) / 1000);
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

/** The evaluation at which a frame takes its first step, `index` counted from the first that is made: as pusa_core/staircase.py. */
export const startOf = ({ sigmas, delay, block }, index) => Math.min(delay, sigmas.length - 1) * Math.floor(Math.max(0, index) / block);

/** Frames of a FrameSchedule's JSON that do not just follow the sampler. */
export function readSchedule(text) {
	const frames = Object.entries(JSON.parse(text).keyframes);
	return new Map(frames.map(([index, { sigmas, multiplier }]) => [Number(index), sigmas ?? [[0, 0], [1, multiplier]]]));
}

export const PRESETS = await (await fetch(new URL("presets.json", import.meta.url))).json();

export function fitted(item, isClip) {
	if (isClip) return { ...item, take: item.take ?? [0, 1] };
	return { ...item, take: undefined, at: item.take && item.at < 0 ? -1 : item.at, noise: noiseOf(item, 1)[0] };
}

/** In a short video a clip gives fewer frames, so that some are left to make; and no more than the `total` that it has. */
function shortened({ at, take: [from, to], noise, ...rest }, latents, total) {
	const alone = at ? 0 : 1; // the first frame of a video, in a latent frame
	const most = STRIDE * Math.floor((total - Math.max(0, from) - alone) / STRIDE) + alone;
	const frames = Math.min(to - from, STRIDE * latents - 3 * alone, most);
	const take = from < 0 ? [-frames, null] : [from, from + frames];
	return { ...rest, at: at < 0 ? -frames : at, take, noise: [noise].flat().slice(0, latents) };
}

/** A preset's items, of what is there; what is missing stays an empty place. */
export function arrange({ slots, same, whole, behaviour }, items, length, framesOf) {
	if (!slots) return items.map((item) => ({ ...item, behaviour }));
	const pool = items.filter(isFilled);
	const latents = latentsOf(length);
	const most = whole ? latents : Math.max(1, slots.length > 1 ? latents >> 1 : latents - 1);
	return slots.map((slot, index) => {
		const source = pool[same ? 0 : index];
		const frames = source ? framesOf(source) : Infinity;
		const item = slot.take ? shortened(slot, most, frames > 1 ? frames : Infinity) : { ...slot };
		if (item.at === "middle") item.at = STRIDE * (latents >> 1);
		if (item.noise.length === 1) item.noise = item.noise[0];
		return source ? { ...fitted(item, frames > 1), media: source.media, input: source.input } : item;
	});
}
