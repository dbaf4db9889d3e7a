/** The timeline's words in the user's language, from locales/<language>/main.json. */

import { api } from "../../../scripts/api.js";
import { language } from "../language.js";
import { framesOf } from "./format.js";

const languages = await api.fetchApi("/i18n").then((answer) => answer.json()).catch(() => ({}));
let words;

/** A text with its {placeholders} filled; English where the page's language lacks it. */
export function t(key, values = {}) {
	words ??= { ...languages.en?.pusaTimeline, ...languages[language()]?.pusaTimeline };
	return (words[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** `frame 40 → latent 10 (37-40)` */
export function placeWords({ frame, first, count }) {
	const last = first + count - 1;
	const frames = [...new Set([framesOf(first)[0], framesOf(last)[1]])].join("-");
	return t(count > 1 ? "placeOfMany" : "placeOfOne", { frame, first, last, frames });
}

export const noiseWords = (from, to) => t(from === to ? "noiseOfOne" : "noiseRamp", { from, to });
