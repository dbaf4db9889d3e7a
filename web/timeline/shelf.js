/** The items' elements: where they lie, what they show, and what a screen reader says of them. */

import { ITEM, build, copy } from "./elements.js";
import { clamp, isFilled, taken } from "./format.js";
import * as media from "./media.js";
import { t } from "./words.js";

const WIDEST = 84;

export function showItems(ui) {
	for (const [item, shown] of ui.elements) if (!ui.items.includes(item)) shown.remove(), ui.elements.delete(item);
	const places = ui.places();
	places.forEach(({ item }, index) => {
		if (!ui.elements.has(item)) ui.elements.set(item, newElement(item));
		showItem(ui, places, index);
		putAt(ui.shelf, ui.elements.get(item), index);
	});
}

function newElement(item) {
	const { root, ...parts } = copy(ITEM);
	parts.start.item = parts.end.item = item;
	return Object.assign(root, { item, parts });
}

function putAt(shelf, shown, index) {
	if (shelf.children[index] === shown) return;
	const focused = document.activeElement; // moving an element takes its focus away
	shelf.insertBefore(shown, shelf.children[index] ?? null);
	if (shown.contains(focused)) focused.focus({ preventScroll: true });
}

export function showItem(ui, places, index) {
	const at = places[index], { item, count } = at;
	const shown = ui.elements.get(item);
	const dragged = ui.dragged?.item === item && ui.dragged.box;
	const [left, width] = dragged || boxOf(ui, places, index);
	shown.style.cssText = `translate: ${left}px; width: ${width}px`;
	const states = { selected: item === ui.selected, clip: count > 1, outside: ui.faultOf(at, places), empty: !isFilled(item), dragged, ended: item.at < 0 };
	for (const name in states) shown.classList.toggle(name, !!states[name]);
	showPictures(ui, shown.parts.film, item, width);
	shown.parts.tag.textContent = index + 1;
	describe(ui, shown, at, `${index + 1}: ${ui.nameOf(item)}`, ui.describe(at, places));
}

function describe(ui, shown, { item, frame, fits, frames }, name, words) {
	Object.assign(shown, { title: `${name}, ${words}`, ariaLabel: name, ariaValueNow: frame, ariaValueMax: ui.length - 1, ariaValueText: words });
	const { start, end } = shown.parts, cut = { ariaValueNow: frames, ariaValueText: t("frames", { count: frames }), hidden: !item.take || !fits };
	Object.assign(start, cut, { ariaLabel: t("startOf", { name }) });
	Object.assign(end, cut, { ariaLabel: t("endOf", { name }) });
}

/** Left edge and width: a picture is as wide as there is room; several in one place share it. */
export function boxOf({ edges }, places, index) {
	const { first, count } = places[index], end = edges.length - 1;
	const [left, right] = [edges[first], edges[Math.min(end, first + count)]];
	if (count > 1) return [left + 1, right - left - 2];
	const pile = places.filter((at) => at.first === first);
	const [before, after] = [places[index - 1], places[index + 1]];
	const room = Math.min(before ? left - edges[before.first + before.count] : Infinity, after ? edges[after.first] - right : Infinity);
	const width = Math.max(right - left - 2, Math.min(right - left + room - 2, WIDEST));
	const share = width / pile.length;
	return [clamp((left + right - width) / 2, 0, edges[end] - width) + share * pile.indexOf(places[index]), share];
}

/** A clip's first, middle and last frame, or one; behind them its name, for what no browser shows. */
function showPictures(ui, film, item, width) {
	const [first, last] = taken(item, media.totalOf(item)) ?? [0, 1];
	const frames = last - first > 1 && width > 110 ? [first, (first + last) >> 1, last - 1] : [first];
	const connected = ui.connectionOf(item)?.picture;
	const key = [item.media, connected, ...frames].join();
	if (film.key === key) return;
	film.key = key;
	const pictures = item.media ? frames.map((frame) => media.pictureOf(item.media, frame)) : connected ? [build("img", { src: connected, alt: "" })] : [];
	film.replaceChildren(build("b", {}, isFilled(item) ? ui.nameOf(item) : t("drop")), ...pictures);
}
