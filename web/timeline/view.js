/** The timeline's elements, and what can be done with its items. */

import { draw, drawOverview, layout } from "./draw.js";
import { PRESETS, arrange, clamp, fitted, isFilled, latentOf, latentsOf, meet, moved, parse, place, serialize, setNoise, taken } from "./format.js";
import { TIMELINE, build, button, copy } from "./elements.js";
import * as media from "./media.js";
import { boxOf, showItem, showItems } from "./shelf.js";
import { noiseWords, placeWords, t } from "./words.js";

const FIRST_TAKE = 13; // frames of a clip that is added

export class Timeline {
	constructor(host) {
		const empty = { items: [], text: "", selected: null, ghost: null, dragged: null, scroll: 0, elements: new Map() };
		Object.assign(this, copy(TIMELINE), empty, { host });
		const presetButton = (preset) => button(t(preset.name), () => this.preset(preset), build("i", {}, preset.glyph), build("span", {}, t(preset.name)));
		this.presets.append(...PRESETS.map(presetButton));
		for (const part of this.root.querySelectorAll("[data-click]")) part.onclick = () => this[part.dataset.click]();
		this.at.onchange = () => this.at.value && this.moveTo(this.selected, latentOf(+this.at.value));
		this.noise.onchange = () => this.noise.value && this.setNoise(this.selected, () => +this.noise.value);
		new ResizeObserver(() => this.refresh()).observe(this.root);
		this.root.ontransitionend = () => this.refresh(); // of its colours, which change with the page's theme
	}

	setValue(text) {
		const index = this.items.indexOf(this.selected);
		this.text = text ?? "";
		this.items = parse(this.text) ?? [];
		this.selected = this.items[index] ?? null;
		this.refresh();
	}

	/** Ends a gesture: what changed becomes the value, in the order of time. */
	changed(words) {
		const places = this.places().sort((one, other) => one.first - other.first);
		this.items = places.map(({ item }) => item);
		this.text = serialize(this.items);
		this.refresh();
		this.say(words);
		this.host.commit();
	}

	changedItem(item, words = "") {
		this.changed(`${words} ${this.summary(item)}`.trim());
	}

	say(words, isError = false) {
		this.status.classList.toggle("error", isError);
		if (this.status.textContent !== words) this.status.textContent = words;
	}

	get length() {
		return this.host.length();
	}
	get latents() {
		return latentsOf(this.length);
	}
	placeOf(item) {
		return place(item, this.length, media.totalOf(item));
	}
	places() {
		return this.items.map((item) => this.placeOf(item));
	}
	nameOf(item) {
		return item.media ? media.nameOf(item.media) : item.input ? `image${item.input}` : t("emptyPlace");
	}
	connectionOf(item) {
		return this.host.inputs().find(({ input }) => input === item.input);
	}
	/** How many pictures an item can give. */
	countOf(item) {
		return media.totalOf(item) ?? (item.take ? Infinity : 1);
	}

	/** The first latent frame of the nearest free place; null where there is none. */
	freePlace(wanted, item, count, ways = [1, -1]) {
		const others = this.places().filter((at) => at.fits && at.item !== item);
		const isFree = (first) => first >= 0 && first + count <= this.latents && !others.some((at) => meet(at, { first, count }));
		for (let distance = 0; distance < this.latents; distance++) {
			const way = ways.find((way) => isFree(wanted + way * distance));
			if (way != null) return wanted + way * distance;
		}
		return null;
	}

	afterSelected() {
		const at = this.selected && this.placeOf(this.selected);
		return at && at.first + at.count;
	}

	/** Moves an item to a latent frame or the nearest free one; with a way, on over what lies there. */
	moveTo(item, latent, way) {
		const at = this.placeOf(item);
		const wanted = way ? latent : clamp(latent, 0, this.latents - at.count);
		const free = this.freePlace(wanted, item, at.count, way && [way]);
		if (free == null) return this.say(t(way ? (way < 0 ? "atStart" : "atEnd") : "noRoom", { name: this.nameOf(item) }), !way);
		Object.assign(item, moved(at, free, this.length));
		this.changedItem(item, free === wanted ? "" : t("taken", { latent: wanted }));
	}

	/** Why a run would refuse it. */
	faultOf(at, places = this.places()) {
		if (!at.fits) return t("outside");
		if (at.item.input && !this.connectionOf(at.item)) return t("notConnected");
		const isTaken = places.some((other) => other.fits && other.item !== at.item && meet(at, other));
		return media.errorOf(at.item) ?? (isTaken && t("taken", { latent: at.first }));
	}

	describe(at, places) {
		const words = [placeWords(at), noiseWords(at.noise[0], at.noise.at(-1)), ...(at.item.behaviour === "hold" ? [t("held")] : [])];
		return this.faultOf(at, places) || words.join(", ");
	}

	summary(item) {
		return `${this.nameOf(item)}: ${this.describe(this.placeOf(item))}`;
	}

	select(item) {
		this.selected = item;
		this.refresh();
		if (item) this.say(this.summary(item));
	}

	async add(source, latent) {
		if (source.media) await media.learn(source.media);
		const error = media.errorOf(source);
		if (error) return this.say(error, true);
		const empty = this.places().find((at) => !isFilled(at.item) && (latent == null || meet(at, { first: latent, count: 1 })));
		if (!empty) return this.addNew(source, latent ?? 0);
		this.selected = Object.assign(empty.item, fitted(empty.item, this.countOf(source) > 1), source);
		this.changedItem(empty.item, t("added"));
	}

	addNew(source, latent) {
		const total = media.totalOf(source) ?? 1;
		const most = 4 * Math.max(0, this.latents - 2) + 1, frames = Math.min(FIRST_TAKE, most, 4 * Math.floor((total - 1) / 4) + 1);
		const noise = frames === FIRST_TAKE ? [0, 0.3, 0.4, 0.5] : 0.3;
		const place = { item: { ...source, behaviour: "hold" }, count: latentsOf(frames), frames };
		this.insert(place, latent, t("added"), (at) => {
			if (total === 1) return { noise: at === 0 ? 0.2 : at < 0 ? 0.5 : 0.3 };
			return { take: at === 0 ? [total - frames, total] : [0, frames], noise }; // at the start goes on from it
		});
	}

	insert(place, latent, words, settings) {
		const { item, count } = place;
		const free = this.freePlace(clamp(latent, 0, this.latents - count), item, count);
		if (free == null) return this.say(t("noRoom", { name: this.nameOf(item) }), true);
		const lies = moved(place, free, this.length);
		this.selected = { ...item, ...lies, ...settings?.(lies.at) };
		this.items.push(this.selected);
		this.changedItem(this.selected, words);
	}

	removeItem() {
		const item = this.selected, index = this.items.indexOf(item);
		this.items.splice(index, 1);
		this.selected = this.items[index] ?? this.items.at(-1) ?? null;
		this.changed(t("removed", { name: this.nameOf(item) }));
		(this.elements.get(this.selected) ?? this.root).focus();
	}

	setNoise(item, change) {
		const { noise, count } = this.placeOf(item);
		setNoise(item, noise.map((value, i) => change(value, i, count)));
		this.changedItem(item);
	}

	trim(item, atStart, more) {
		const [at, total] = [this.placeOf(item), media.totalOf(item)];
		const frames = item.take && taken(item, total);
		if (!at.fits || !frames) return false;
		const before = atStart ? more : 0, take = [frames[0] - 4 * before, frames[1] + 4 * (more - before)];
		const [first, count] = [at.first - before, at.count + more];
		if (count < 1 || take[0] < 0 || take[1] > (total ?? Infinity) || this.freePlace(first, item, count, [0]) == null) return false;
		const noise = Array.from({ length: count }, (_, i) => at.noise[clamp(i - before, 0, at.count - 1)]);
		Object.assign(item, moved({ count, frames: take[1] - take[0], item: { take } }, first, this.length));
		setNoise(item, noise);
		return true;
	}

	toggleFold() {
		const settings = this.host.settings();
		settings.pusa_fold = !settings.pusa_fold;
		this.refresh();
	}

	toggleHold() {
		const { selected } = this;
		selected.behaviour = selected.behaviour === "hold" ? undefined : "hold";
		this.changedItem(selected);
	}

	/** Arranges the items; or sets on the node behind when frames take their steps. */
	preset({ name, node, ...preset }) {
		let words = this.host.set(node, preset) ? "shaped" : "notBehind";
		if (!node) {
			this.items = arrange(preset, this.items, this.length, (item) => this.countOf(item));
			this.selected = this.items[0];
			words = !preset.slots ? "followed" : this.items.every(isFilled) ? "arranged" : "arrangedEmpty";
		}
		this.changed(t(words, { preset: t(name), node: LiteGraph.registered_node_types[node]?.title }));
	}

	pick(latent) {
		const onchange = ({ target }) => this.addFiles(target.files, latent);
		build("input", { type: "file", accept: "image/*,video/*", multiple: true, onchange }).click();
	}

	async addFiles(files, latent) {
		for (const file of files) {
			this.say(t("uploading", { name: file.name }));
			try {
				await this.add({ media: await media.upload(file) }, latent);
			} catch (error) {
				this.say(error.message, true);
			}
		}
	}

	/** Brings everything to the present value, size and theme. */
	refresh() {
		if (!this.root.clientWidth) return;
		this.theme = readTheme(this.root);
		this.sampling = this.host.sampling();
		this.width = this.canvas.clientWidth;
		this.edges = layout(this.frames(), this.width, this.host.settings().pusa_fold);
		this.overview.hidden = this.edges[this.latents] <= this.width + 1;
		this.showSettings();
		this.scrollTo(this.scroll);
		showItems(this);
		for (const { media: name } of this.items) if (name) media.learn(name, () => this.refresh());
		if (!parse(this.text)) this.say(t("unreadable"), true);
		else if (!this.selected) {
			const wrong = this.places().find((at, _, places) => this.faultOf(at, places))?.item;
			this.say(wrong ? this.summary(wrong) : t("idle"), !!wrong);
		}
	}

	/** Whether it scrolled. */
	scrollTo(x) {
		const before = this.scroll;
		this.scroll = clamp(x, 0, Math.max(0, this.edges[this.latents] - this.width));
		this.later();
		return this.scroll !== before;
	}

	boxOf(item) {
		return boxOf(this, this.places(), this.items.indexOf(item));
	}

	/** Scrolls until an item is seen whole. */
	reveal(item) {
		const [left, width] = this.boxOf(item);
		this.scrollTo(clamp(this.scroll, left + width - this.width, left));
	}

	frames() {
		const frames = Array(this.latents).fill(null);
		for (const [index, knots] of this.host.connected()) if (index < frames.length) frames[index] = { knots };
		for (const { item, fits, first, noise } of this.places()) {
			if (!fits) continue;
			const hold = item.behaviour === "hold";
			noise.forEach((value, i) => (frames[first + i] = { knots: [[0, 0], [1, value]], hold: hold && (value < 1 || noise.length < 2), item }));
		}
		return frames;
	}

	/** Redraws when the screen does; again while a hand that rests moves something. */
	later() {
		this.pending ??= requestAnimationFrame(() => {
			const goesOn = this.follow();
			this.pending = undefined;
			this.redraw();
			if (goesOn) this.later();
		});
	}

	redraw() {
		if (!this.edges) return;
		const { scroll, ghost, dragged } = this;
		const view = { ...this, ...this.sampling, ...this.theme, frames: this.frames() };
		draw(this.canvas, view);
		if (!this.overview.hidden) drawOverview(this.overview, view);
		this.shelf.style.translate = `${-scroll}px`;
		if (dragged) showItem(this, this.places(), this.items.indexOf(dragged.item));
		if (ghost) this.say(ghost.text);
		const { frame = "", noise = [""] } = this.selected ? this.placeOf(this.selected) : {};
		[this.at.value, this.noise.value] = [frame, noise[0]];
	}

	showSettings() {
		const item = this.selected;
		this.own.disabled = !item;
		this.hold.ariaPressed = item?.behaviour === "hold";
		this.fold.ariaPressed = !!this.host.settings().pusa_fold;
		const free = this.host.inputs().filter(({ input }) => !this.items.some((other) => other.input === input));
		const chip = ({ input }) => button(t("addInput", { name: `image${input}` }), () => this.add({ input }), `+ image${input}`);
		this.chips.replaceChildren(...free.map(chip));
		this.hint.hidden = this.items.length > 0;
	}
}

function readTheme(root) {
	const { color: ink, backgroundColor: paper, outlineColor: accent } = getComputedStyle(root);
	const scale = (root.getBoundingClientRect().width / root.offsetWidth) * devicePixelRatio || 1;
	return { ink, paper, accent, ratio: clamp(Math.ceil(2 * scale) / 2, 1, 3) };
}
