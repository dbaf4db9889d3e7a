/** What hands do on a timeline. A gesture ends in one change of the value. */

import { BAR, BAR_BOTTOM, NOISE_TOP, latentAt } from "./draw.js";
import { STRIDE, clamp, meet, mix, moved, setNoise } from "./format.js";
import { noiseWords, placeWords, t } from "./words.js";

const THRESHOLD = 4; // pixels to a drag
const STEP = 0.05; // of noise
const EDGE = 20; // pixels, where what is held scrolls
const COPIED = "application/x-pusa-item";

export function attachHands(ui) {
	const { root, lanes } = ui;
	let gesture = null, pointer = null; // see types.d.ts; the pointer's last event while it is down

	/** Listens; the page gets what `react` answers with false. */
	function on(kinds, react) {
		const listen = (event) => react(event) === false || (event.preventDefault(), event.stopPropagation());
		for (const kind of kinds.split(" ")) root.addEventListener(kind, listen, { passive: false });
	}

	/** The pointer in the canvas' own pixels, whatever the zoom. */
	function point(event) {
		const box = ui.canvas.getBoundingClientRect();
		const scale = box.width / ui.width || 1;
		const x = (event.clientX - box.left) / scale + ui.scroll;
		return { x, y: (event.clientY - box.top) / scale, latent: latentAt(ui.edges, x) };
	}

	function gestureOf({ target }, at) {
		if (target === ui.overview) return { move: ({ x }) => ui.scrollTo(((x - ui.scroll) / ui.width) * ui.edges[ui.latents] - ui.width / 2) };
		const [handle, shown] = [".pt-handle", ".pt-item"].map((kind) => target.closest(kind));
		(handle ?? shown ?? root).focus({ preventScroll: true });
		if (shown) ui.select(shown.item);
		if (handle) return trimGesture(ui, shown.item, handle.dataset.side === "start", at);
		if (shown) return moveGesture(ui, shown.item, at);
		if (at.y < NOISE_TOP) ui.select(null);
		return at.y > NOISE_TOP && at.y < BAR_BOTTOM + 3 ? noiseGesture(ui, at) : null;
	}

	on("pointerdown", (event) => {
		if (event.button) return false;
		event.stopPropagation();
		if (event.target !== ui.overview && !lanes.contains(event.target)) return false;
		pointer = event;
		gesture = gestureOf(event, point(event));
		if (gesture) root.setPointerCapture(event.pointerId);
	});
	on("pointermove", (event) => {
		if (!gesture) return false;
		pointer = event;
		ui.later();
	});
	ui.follow = () => gesture?.move(point(pointer));
	on("pointerup pointercancel", (event) => {
		const ended = gesture, isCancelled = event.type === "pointercancel";
		if (!isCancelled) ended?.move(point(event));
		gesture = pointer = ui.ghost = ui.dragged = null;
		if (!ended) return false;
		if (isCancelled) ui.setValue(ui.text), ui.select(ui.selected);
		else if (ended.item) ui.changedItem(ended.item);
		else ui.refresh();
	});
	root.onpointerenter = () => gesture || ui.refresh();
	on("dblclick", (event) => {
		if (lanes.contains(event.target) && !event.target.closest(".pt-item:not(.empty)")) ui.pick(point(event).latent);
	});
	on("wheel", ({ shiftKey, deltaX, deltaY }) => ui.scrollTo(ui.scroll + (shiftKey ? deltaY : deltaX)));

	on("dragover dragleave drop", (event) => {
		const at = point(event).latent;
		ui.ghost = event.type === "dragover" ? ghostAt(at, 1) : null;
		ui.later();
		if (event.type === "drop") ui.addFiles(event.dataTransfer.files, at);
		return event.dataTransfer.types.includes("Files");
	});
	on("paste", ({ clipboardData, target }) => {
		const { files } = clipboardData, item = JSON.parse(clipboardData.getData(COPIED) || "null");
		if (target.closest("input") || (!files.length && !item)) return false;
		if (item) ui.insert(ui.placeOf(item), ui.afterSelected() ?? 0, t("pasted"));
		else ui.addFiles(files, ui.afterSelected());
	});
	on("copy cut", ({ clipboardData, target, type }) => {
		if (!ui.selected || target.closest("input")) return false;
		clipboardData.setData(COPIED, JSON.stringify(ui.selected));
		if (type === "cut") ui.removeItem();
	});

	root.addEventListener("focusin", ({ target: { item } }) => {
		if (!item || pointer) return;
		if (item !== ui.selected) ui.select(item);
		ui.reveal(item);
	});
	on("keydown", (event) => {
		const command = event.ctrlKey || event.metaKey;
		const isText = event.target.closest("input");
		if (isText || (command && "cvx".includes(event.key.toLowerCase()))) event.stopPropagation();
		if (isText || command || press(ui, event) === false) return false;
		if (ui.selected) ui.reveal(ui.selected);
	});
}

/** Does what a key means here; false where it means nothing. */
function press(ui, { key, altKey, target: { dataset: { side } } }) {
	const item = ui.selected;
	if (key === "+") return ui.pick(ui.afterSelected());
	const isDelete = /Delete|Backspace/.test(key);
	if (!item) return isDelete; // not for the node
	const way = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1 }[key], isTilt = /Left|Right/.test(key);
	if (way && altKey) return ui.setNoise(item, (noise, i, count) => noise + STEP * way * (isTilt ? i / Math.max(1, count - 1) : 1));
	if (way && side) return ui.trim(item, side === "start", side === "end" ? way : -way) ? ui.changedItem(item) : ui.say(t("cannotCut"));
	if (way) return ui.moveTo(item, ui.placeOf(item).first + way, way);
	if (/Home|End/.test(key)) return ui.moveTo(item, key === "End" ? ui.latents : 0);
	if (isDelete) return ui.removeItem();
	if (key.toLowerCase() === "h") return ui.toggleHold();
	return key === "Escape" && ui.select(null);
}

function ghostAt(first, count, more = "") {
	return { first, count, text: `${placeWords({ frame: STRIDE * first, first, count })} ${more}`.trim() };
}

function moveGesture(ui, item, from) {
	const start = { ...ui.placeOf(item), item: { ...item } };
	const { first, count, fits } = start;
	const [left, width] = ui.boxOf(item);
	const grip = fits && count > 1 ? from.latent - first : 0;
	let to = null;
	return {
		item,
		move(at) {
			if (to == null && Math.abs(at.x - from.x) < THRESHOLD) return;
			const wanted = clamp(at.latent - grip, 0, ui.latents - count);
			to = ui.freePlace(wanted, item, count);
			if (to == null) return;
			Object.assign(item, moved(start, to, ui.length));
			ui.dragged = { item, box: [left + at.x - from.x, width] };
			ui.ghost = ghostAt(to, count, to === wanted ? "" : t("nextFree"));
			const x = at.x - ui.scroll;
			return ui.scrollTo(ui.scroll + (x - clamp(x, EDGE, ui.width - EDGE)) / 3);
		},
	};
}

function trimGesture(ui, item, atStart, from) {
	let done = 0;
	return {
		item,
		move(at) {
			const wanted = (at.latent - from.latent) * (atStart ? -1 : 1), way = Math.sign(wanted - done);
			while (done !== wanted && ui.trim(item, atStart, way)) done += way;
			const { first, count, frames } = ui.placeOf(item);
			ui.dragged = { item };
			ui.ghost = { first, count, text: t("frames", { count: frames }) };
		},
	};
}

function noiseGesture(ui, from) {
	const noiseAt = ({ y }) => Math.round(clamp((BAR_BOTTOM - y) / BAR, 0, 1) * 20) / 20;
	const before = ui.places().filter(({ fits }) => fits);
	const owner = before.find((at) => meet(at, { first: from.latent, count: 1 }))?.item;
	if (!owner) return null;
	const move = (at) => {
		const [low, high] = [from, at].sort((a, b) => a.latent - b.latent);
		const [end, wide] = [noiseAt(high), high.latent - low.latent];
		const start = wide ? noiseAt(low) : end;
		const value = (old, i) => (i < 0 || i > wide ? old : mix(start, end, i / (wide || 1)));
		for (const { item, first, noise } of before) setNoise(item, noise.map((old, i) => value(old, first + i - low.latent)));
		ui.ghost = { first: low.latent, count: wide + 1, text: noiseWords(start, end) };
	};
	ui.select(owner);
	move(from);
	return { item: owner, move };
}
