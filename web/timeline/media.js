/** Files: uploads, what is known about them, and small pictures of them. */

import { api } from "../../../scripts/api.js";

const FOLDER = "pusa"; // in ComfyUI's input folder
const VIDEO = /\.(mp4|webm|mkv|mov|avi|m4v)$/i, ANIMATED = /\.(gif|webp|apng)$/i;

/** @type {Map<string, {frames?: number, rate?: number, error?: string}>} */
const facts = new Map();
/** @type {Map<string, string>} name#frame -> address of a picture */
const thumbs = new Map();

const bare = (name) => name.replace(/ \[\w+\]$/, "");
export const nameOf = (name) => bare(name).split("/").pop();
export const isClipName = (name) => VIDEO.test(bare(name)) || ANIMATED.test(bare(name));

/** Pictures and clips that an event brings. */
export const filesOf = (transfer) => [...(transfer?.files ?? [])].filter((file) => /^(image|video)\//.test(file.type));

/** Uploads a file. @returns {Promise<string>} its name for an item */
export async function upload(file) {
  const body = new FormData();
  body.append("image", file, file.name);
  body.append("type", "input");
  body.append("subfolder", FOLDER);
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (!answer.ok) throw new Error(`${file.name} was not uploaded: ${answer.status} ${answer.statusText}.`);
  const { subfolder, name } = await answer.json();
  const saved = subfolder ? `${subfolder}/${name}` : name;
  facts.delete(saved); // there may have been none of that name
  return saved;
}

/** How many frames an item's file has, if that is known by now. */
export const totalOf = (item) => facts.get(item.media)?.frames;

/** Asks the server about a file, once; calls `ready` when it has answered. */
export async function learn(name, ready) {
  if (facts.has(name)) return facts.get(name);
  facts.set(name, {});
  try {
    facts.set(name, await (await api.fetchApi(`/pusa/media?name=${encodeURIComponent(name)}`)).json());
    ready?.();
  } catch {
    facts.delete(name); // asked again at the next chance
  }
  return facts.get(name) ?? {};
}

/** Where a file is served. `name [pusa]` is one of the pack's own samples, `name [output]` in ComfyUI's output folder. */
function address(name) {
  const type = name.match(/ \[(\w+)\]$/)?.[1] ?? "input";
  if (type === "pusa") return new URL(`../samples/${bare(name)}`, import.meta.url).href;
  const [, subfolder = "", filename] = bare(name).match(/^(?:(.*)\/)?(.*)$/);
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

/** The address of a frame's picture; "" until it is made, and `ready` called. */
export function thumb(name, frame, ready) {
  if (!VIDEO.test(bare(name))) return address(name);
  const key = `${name}#${frame}`;
  if (!thumbs.has(key)) {
    thumbs.set(key, "");
    grab(name, frame).then((url) => (thumbs.set(key, url), ready()), () => {}); // what no browser plays has its name
  }
  return thumbs.get(key);
}

async function grab(name, frame) {
  const video = Object.assign(document.createElement("video"), { muted: true, preload: "auto", src: address(name) });
  const event = (kind) => new Promise((done, failed) => ((video[`on${kind}`] = done), (video.onerror = failed)));
  await event("loadeddata");
  video.currentTime = Math.min(video.duration - 0.01, (frame + 0.5) / (facts.get(name)?.rate || 16));
  await event("seeked");
  const canvas = Object.assign(document.createElement("canvas"), { height: 120, width: (120 * video.videoWidth) / video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  video.removeAttribute("src");
  return canvas.toDataURL("image/jpeg", 0.8);
}
