/** Elements: those of timeline.html, in the page's language, and others. */

import { t } from "./words.js";

const page = await (await fetch(new URL("timeline.html", import.meta.url))).text();
export const [TIMELINE, ITEM] = new DOMParser().parseFromString(page, "text/html").body.children;

export function build(tag, properties, ...children) {
	const made = Object.assign(document.createElement(tag), properties);
	made.append(...children);
	return made;
}

export const button = (title, onclick, ...children) => build("button", { title, ariaLabel: title, onclick }, ...children);

/** Copies an element of the page; its parts get their words and come by name. */
export function copy(element) {
	const parts = { root: document.importNode(element, true) };
	for (const part of [parts.root, ...parts.root.querySelectorAll("*")]) {
		const { words, label, tip, part: name } = part.dataset;
		if (words) part.textContent = t(words);
		if (label || tip) part.ariaLabel = t(label || tip);
		if (tip) part.title = t(tip);
		if (name) parts[name] = part;
	}
	return parts;
}
