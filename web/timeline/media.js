/** Files: uploads, what is known about them, and small pictures of them. */

import { api } from "../../../scripts/api.js";
import { build } from "./elements.js";
import { t } from "./words.js";

const VIDEO = /\.(mp4|webm|mkv|mov|avi|m4v)$/i;
const facts = new Map(); // name -> {frames, rate} or {error}

const bare = (name) => name.replace(/ \[\w+\]$/, "");
export const nameOf = (name) => bare(name).split("/").pop();

export async function upload(file) {
	const failed = (why) => new Error(t("notUploaded", { name: file.name, why }));
	if (!/^(image|video)\//.test(file.type) && !VIDEO.test(file.name)) throw failed(file.type || "?");
	const body = new FormData();
	body.append("image", file);
	body.append("subfolder", "pusa");
	const answer = await api.fetchApi("/upload/image", { method: "POST", body });
	if (!answer.ok) throw failed(`${answer.status} ${answer.statusText}`);
	const { subfolder, name } = await answer.json();
	facts.delete(`${subfolder}/${name}`); // there may have been none of that name
	return `${subfolder}/${name}`;
}

/** How many frames an item's file has, if that is known by now. */
export const totalOf = (item) => facts.get(item.media)?.frames;
export const errorOf = (item) => facts.get(item.media)?.error;

/** Asks the server about a file, once; calls `ready` when it has answered. */
export async function learn(name, ready) {
	if (!facts.has(name)) {
		facts.set(name, {});
		const asked = api.fetchApi(`/pusa/media?name=${encodeURIComponent(name)}`).then((answer) => answer.json());
		await asked.then((fact) => (facts.set(name, fact), ready?.()), () => facts.delete(name)); // asked again at the next chance
	}
}

/** Where a file is served: `name [pusa]` is a sample of the pack, `name [output]` in ComfyUI's output folder. */
function address(name) {
	const type = name.match(/ \[(\w+)\]$/)?.[1] ?? "input";
	if (type === "pusa") return new URL(`../samples/${bare(name)}`, import.meta.url).href;
	const [, subfolder = "", filename] = bare(name).match(/^(?:(.*)\/)?(.*)$/);
	return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

export function pictureOf(name, frame) {
	const isVideo = VIDEO.test(bare(name));
	const time = isVideo ? `#t=${(frame + 0.5) / (facts.get(name)?.rate || 16)}` : "";
	return build(isVideo ? "video" : "img", { alt: "", muted: true, src: address(name) + time });
}
