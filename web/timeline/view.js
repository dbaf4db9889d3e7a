/** The timeline's elements, and what can be done with its items. */

import { GUTTER, draw, drawOverview, layout } from "./draw.js";
import {
  EMPTY, PRESETS, anchored, arrange, clamp, describePlace, fitted, freePlace, latentCount, latentOf, latentsOf, noiseOf, parse, place,
  serialize, setNoise, taken,
} from "./format.js";
import * as media from "./media.js";
/** @import {Frame, Host, Item} from "./types" */

const IDLE = "Drag items to their frames. Drag the bars for noise, over several for a ramp. Double-click adds files.";
const FIRST_TAKE = 13; // frames of a clip that is added
const WIDEST = 84; // pixels of a picture

/** @returns {HTMLElement} */
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const name in attributes) made.setAttribute(name, attributes[name]);
  made.append(...children);
  return made;
}

function button(title, onclick, ...children) {
  return Object.assign(element("button", { type: "button", "aria-label": title }, ...children), { onclick, title });
}

export class Timeline {
  /** @param {Host} host */
  constructor(host) {
    /** @type {Item[]} */
    this.items = [];
    Object.assign(this, { host, text: EMPTY, error: "", selected: null, ghost: null, scroll: 0, elements: new Map() });
    this.build();
    this.sizes = new ResizeObserver(() => this.refresh());
    this.sizes.observe(this.root);
    this.colours = new MutationObserver(() => setTimeout(() => this.refresh(), 100)); // when the page has its new theme
    for (const part of [document.documentElement, document.body]) this.colours.observe(part, { attributeFilter: ["class", "style"] });
  }

  dispose() {
    this.sizes.disconnect();
    this.colours.disconnect();
  }

  build() {
    this.canvas = element("canvas", { "aria-hidden": true });
    this.shelf = element("div", { class: "shelf", role: "group", "aria-label": "Pictures and clips" });
    this.hint = element("div", { class: "hint" }, "Drop pictures and clips here, paste them, or double-click");
    this.lanes = element("div", { class: "pt-lanes" }, this.canvas, this.hint, this.shelf);
    this.overview = element("canvas", { class: "pt-overview", "aria-hidden": true });
    this.status = element("div", { class: "pt-status", role: "status", "aria-live": "polite" });
    this.picker = element("input", { type: "file", accept: "image/*,video/*", multiple: "", hidden: "" });
    const presets = PRESETS.map((preset) => button(preset.name, () => this.preset(preset), glyph(preset), element("span", {}, preset.name)));
    this.root = element("div", { class: "pusa-timeline", tabindex: 0, role: "group", "aria-label": "Timeline" },
      element("div", { class: "presets", role: "group", "aria-label": "Presets" }, ...presets),
      this.buildSettings(), this.lanes, this.overview, this.status, this.picker);
  }

  buildSettings() {
    const number = (name, step, change) => {
      const input = element("input", { type: "number", min: 0, step, "aria-label": name });
      input.onchange = () => input.value && this.selected && change(Number(input.value));
      return input;
    };
    this.at = number("Frame", 4, (frame) => this.moveTo(this.selected, latentOf(frame)));
    this.noise = number("Noise", 0.05, (noise) => this.setNoise(this.selected, () => noise));
    this.hold = button("Hold: stays exactly on the picture (H)", () => this.toggleHold(), "Hold");
    this.remove = button("Remove (Del)", () => this.removeItem(this.selected), "✕");
    this.fold = button("Fold: makes ordinary frames narrow", () => ((this.host.fold = !this.host.fold), this.refresh()), "Fold");
    this.chips = element("span", { class: "chips" });
    return element("div", { class: "settings" }, button("Add pictures or clips (+)", () => this.pick(), "+ Add"), this.chips, this.fold,
      element("span", { class: "space" }), element("label", {}, "Frame", this.at), element("label", {}, "Noise", this.noise), this.hold, this.remove);
  }

  // --- value

  setValue(text) {
    const index = this.items.indexOf(this.selected);
    this.text = text ?? "";
    Object.assign(this, parse(this.text));
    this.selected = this.items[index] ?? null;
    this.refresh();
  }

  /** Ends a gesture: what changed becomes the value, in the order of time. */
  changed(words) {
    const place = (item) => this.spanOf(item)?.first ?? Infinity;
    this.items.sort((a, b) => place(a) - place(b) || 0);
    this.refresh();
    this.say(words);
    const text = serialize(this.items);
    if (text === this.text) return;
    this.text = text;
    this.error = "";
    this.host.commit();
  }

  /** Ends a gesture on one item. */
  changedItem(item, words = "") {
    this.changed(`${words}${this.nameOf(item)}: ${this.describe(item)}`);
  }

  say(words, isError = false) {
    this.status.classList.toggle("error", isError);
    if (this.status.textContent !== words) this.status.textContent = words;
  }

  // --- items

  get length() {
    return this.host.length();
  }
  get latents() {
    return latentsOf(this.length);
  }
  spanOf(item) {
    return place(item, this.length, media.totalOf(item));
  }
  countOf(item) {
    return latentCount(item, media.totalOf(item));
  }
  nameOf(item) {
    return item.media ? media.nameOf(item.media) : item.input ? `image${item.input}` : "empty place";
  }
  isClip(item) {
    return item.media ? media.isClipName(item.media) && media.totalOf(item) !== 1 : Boolean(item.take);
  }

  /** Which latent frames are filled, but for those of one item. */
  occupied(without) {
    const filled = Array(this.latents).fill(false);
    for (const item of this.items) {
      const span = item !== without && this.spanOf(item);
      if (span) filled.fill(true, span.first, span.last + 1);
    }
    return filled;
  }

  freeNear(latent, count, without) {
    return freePlace(this.occupied(without), clamp(latent, 0, this.latents - count), count);
  }

  /** Moves an item to a latent frame, or the nearest free one. */
  moveTo(item, latent) {
    const count = this.countOf(item);
    const free = this.freeNear(latent, count, item);
    if (free == null) return this.say(`There is no room for ${this.nameOf(item)}.`);
    item.at = anchored(free, count, this.length);
    this.changedItem(item, free === clamp(latent, 0, this.latents - count) ? "" : `Latent ${latent} is taken. `);
  }

  describe(item) {
    const span = this.spanOf(item);
    if (!span) return "outside the video";
    const noise = noiseOf(item, span.last - span.first + 1);
    const spread = [...new Set([noise[0], noise[noise.length - 1]])].join(" to ");
    return `${describePlace(span)}, noise ${spread}${item.behaviour === "hold" ? ", hold" : ""}`;
  }

  select(item) {
    this.selected = item;
    this.refresh();
    if (item) this.say(`${this.nameOf(item)}: ${this.describe(item)}`);
  }

  /** Adds a picture or clip near a latent frame, or puts it into an empty place there. */
  async add(source, latent = null) {
    const { error } = source.media ? await media.learn(source.media) : {};
    if (error) return this.say(error, true);
    const isHere = (span) => latent == null || (span && span.first <= latent && latent <= span.last);
    let item = this.items.find((other) => !other.media && !other.input && isHere(this.spanOf(other)));
    if (item) Object.assign(item, fitted(item, this.isClip(source)), source);
    else if ((item = this.newItem(source, latent ?? 0))) this.items.push(item);
    else return this.say(`There is no room for ${this.nameOf(source)}: make the video longer, or remove something.`, true);
    this.selected = item;
    this.changedItem(item, "Added ");
  }

  newItem(source, latent) {
    const total = this.isClip(source) ? (media.totalOf(source) ?? 1) : 1;
    const most = 4 * Math.max(0, this.latents - 2) + 1; // so that something is left to be made
    const frames = Math.min(FIRST_TAKE, most, 4 * Math.floor((total - 1) / 4) + 1);
    const count = latentsOf(frames);
    const free = this.freeNear(latent, count);
    if (free == null) return null;
    const at = anchored(free, count, this.length);
    if (total === 1) return { at, ...source, noise: free === 0 ? 0.2 : at < 0 ? 0.5 : 0.3 };
    const take = free === 0 ? [total - frames, total] : [0, frames]; // at the start it is gone on from
    return { at, ...source, take, noise: frames === FIRST_TAKE ? [0, 0.3, 0.4, 0.5] : 0.3 };
  }

  removeItem(item) {
    const index = this.items.indexOf(item);
    if (index < 0) return;
    this.items.splice(index, 1);
    this.selected = this.items[Math.min(index, this.items.length - 1)] ?? null;
    this.changed(`Removed ${this.nameOf(item)}.`);
    (this.elements.get(this.selected) ?? this.root).focus();
  }

  /** Sets an item's noise: `change` gets a latent frame's value, its position and their number. */
  setNoise(item, change) {
    const count = this.countOf(item);
    setNoise(item, noiseOf(item, count).map((noise, i) => change(noise, i, count)));
    this.changedItem(item);
  }

  /** Takes more latent frames of a clip, or fewer, at its start or end. @returns {boolean} whether that can be */
  trim(item, atStart, more) {
    const [total, span] = [media.totalOf(item) ?? Infinity, this.spanOf(item)];
    const frames = item.take && taken(item, media.totalOf(item));
    if (!span || !frames) return false;
    const take = [frames[0] - (atStart ? 4 * more : 0), frames[1] + (atStart ? 0 : 4 * more)];
    const [first, count] = [span.first - (atStart ? more : 0), span.last - span.first + 1 + more];
    if (take[0] < 0 || take[1] > total || count < 1 || first < 0 || first + count > this.latents) return false;
    if (this.occupied(item).slice(first, first + count).some(Boolean)) return false;
    const noise = noiseOf(item, count - more);
    const kept = Array.from({ length: count }, (_, i) => noise[clamp(atStart ? i - more : i, 0, noise.length - 1)]);
    Object.assign(item, { at: anchored(first, count, this.length), take });
    setNoise(item, kept);
    return true;
  }

  toggleHold() {
    this.selected.behaviour = this.selected.behaviour === "hold" ? "evolve" : "hold";
    this.changedItem(this.selected);
  }

  preset(preset) {
    this.items = arrange(preset, this.items, this.length, (item) => this.isClip(item));
    this.selected = this.items[0];
    const empty = this.items.filter((item) => !item.media && !item.input).length;
    this.changed(`${preset.name}: ${empty ? "drop a file on each empty place" : "places and noise are set"}.`);
  }

  pick(latent = null) {
    this.picker.onchange = () => this.addFiles([...this.picker.files], latent);
    this.picker.value = "";
    this.picker.click();
  }

  async addFiles(files, latent = null) {
    for (const file of files) {
      this.say(`Uploading ${file.name} ...`);
      await media.upload(file).then((name) => this.add({ media: name }, latent)).catch((error) => this.say(error.message, true));
    }
  }

  // --- picture

  /** Brings everything to the present value, size and theme. */
  refresh() {
    if (!this.root.clientWidth) return;
    this.theme = readTheme(this.root);
    this.sampling = this.host.sampling();
    this.width = Math.max(40, this.lanes.clientWidth - GUTTER);
    this.edges = layout(this.frames(), this.width, this.host.fold);
    this.overview.hidden = this.edges[this.edges.length - 1] <= this.width + 1;
    this.showSettings();
    this.scrollTo(this.scroll);
    for (const { media: name } of this.items) if (name) media.learn(name, () => this.refresh());
    if (this.error) this.say(this.error, true);
    else if (!this.selected) this.say(IDLE);
  }

  scrollTo(x) {
    this.scroll = clamp(x, 0, Math.max(0, this.edges[this.edges.length - 1] - this.width));
    this.redraw();
  }

  /** What every latent frame does. @returns {(Frame|null)[]} */
  frames() {
    const frames = Array(this.latents).fill(null);
    for (const [index, knots] of this.host.connected()) if (index < frames.length) frames[index] = { knots, hold: false, item: null };
    for (const item of this.items) {
      const span = this.spanOf(item);
      if (!span) continue;
      noiseOf(item, span.last - span.first + 1).forEach((noise, i) => {
        frames[span.first + i] = { knots: [[0, 0], [1, noise]], hold: item.behaviour === "hold", item };
      });
    }
    return frames;
  }

  /** Draws once before the page's next picture. */
  later() {
    this.pending ??= requestAnimationFrame(() => ((this.pending = undefined), this.redraw()));
  }

  redraw() {
    if (!this.edges) return;
    const view = { ...this, ...this.sampling, frames: this.frames() };
    draw(this.canvas, view, this.theme);
    if (!this.overview.hidden) drawOverview(this.overview, view, this.theme);
    this.showItems();
  }

  showSettings() {
    const item = this.selected;
    for (const part of [this.at, this.noise, this.hold, this.remove]) part.disabled = !item;
    this.at.value = item ? (this.spanOf(item)?.frame ?? item.at) : "";
    this.noise.value = item ? noiseOf(item, 1)[0] : "";
    this.hold.setAttribute("aria-pressed", item?.behaviour === "hold");
    this.fold.setAttribute("aria-pressed", this.host.fold);
    const free = this.host.inputs().filter(({ number }) => !this.items.some((other) => other.input === number));
    this.chips.replaceChildren(...free.map(({ number }) => button(`Add image${number}`, () => this.add({ input: number }), `+ image${number}`)));
    this.hint.hidden = this.items.length > 0;
  }

  showItems() {
    this.shelf.style.transform = `translateX(${-this.scroll}px)`;
    for (const [item, shown] of this.elements) if (!this.items.includes(item)) shown.remove(), this.elements.delete(item);
    const spans = this.items.map((item) => this.spanOf(item));
    this.items.forEach((item, index) => {
      if (!this.elements.has(item)) this.elements.set(item, buildItem(item));
      const shown = this.elements.get(item);
      this.showItem(shown, item, index, spans);
      if (this.shelf.children[index] === shown) return;
      const focused = document.activeElement; // moving an element takes its focus away
      this.shelf.insertBefore(shown, this.shelf.children[index] ?? null);
      if (shown.contains(focused)) focused.focus({ preventScroll: true });
    });
  }

  showItem(shown, item, index, spans) {
    const span = spans[index];
    const count = span ? span.last - span.first + 1 : this.countOf(item);
    const [left, width] = this.boxOf(item, index, spans, count);
    const dragged = this.dragged?.item === item;
    const pictures = this.picturesOf(item, width);
    const key = [left, width, index, item === this.selected, dragged, this.length, JSON.stringify(item), pictures].join("|");
    if (shown.key === key) return;
    shown.key = key;
    shown.style.cssText = `transform: translateX(${left}px); width: ${width}px`;
    const states = { selected: item === this.selected, clip: count > 1, outside: !span, empty: !item.media && !item.input, dragged, ended: item.at < 0 };
    for (const name in states) shown.classList.toggle(name, states[name]);
    shown.children[1].textContent = index + 1;
    if (shown.pictures !== String(pictures)) shown.children[0].replaceChildren(...pictures.map((url) => tile(url, item.media || item.input ? this.nameOf(item) : "drop")));
    shown.pictures = String(pictures);
    this.describeTo(shown, item, index, span, count);
  }

  describeTo(shown, item, index, span, count) {
    const name = `${index + 1}: ${this.nameOf(item)}`;
    const words = { title: `${name}, ${this.describe(item)}`, "aria-label": name, "aria-valuemax": this.length - 1, "aria-valuenow": span?.frame ?? item.at, "aria-valuetext": this.describe(item) };
    for (const word in words) shown.setAttribute(word, words[word]);
    for (const part of shown.querySelectorAll(".pt-handle")) {
      part.hidden = !item.take || !span;
      part.setAttribute("aria-label", `${part.dataset.side} of ${name}`);
      part.setAttribute("aria-valuenow", 4 * count - 3);
      part.setAttribute("aria-valuetext", `${4 * count - 3} frames`);
    }
  }

  /** Left edge and width of an item. A clip fills its latent frames, a picture is centred on its own, as wide as there is room. */
  boxOf(item, index, spans, count) {
    if (this.dragged?.item === item) return this.dragged.box;
    const end = this.edges.length - 1;
    const first = spans[index]?.first ?? Math.max(0, end - count);
    const [left, right] = [this.edges[first], this.edges[Math.min(end, first + count)]];
    if (count > 1) return [left + 1, right - left - 2];
    const [centre, own] = [(left + right) / 2, right - left];
    const before = spans[index - 1] ? left - this.edges[spans[index - 1].last + 1] : Infinity;
    const after = spans[index + 1] ? this.edges[spans[index + 1].first] - right : Infinity;
    const width = Math.max(own - 2, Math.min(own + Math.min(before, after) - 2, WIDEST));
    return [clamp(centre - width / 2, 0, this.edges[end] - width), width];
  }

  /** Addresses of the pictures that an item shows; "" while there is none. */
  picturesOf(item, width) {
    if (!item.media) return [this.host.inputs().find(({ number }) => number === item.input)?.picture ?? ""];
    const [first, last] = taken(item, media.totalOf(item)) ?? [0, 1];
    const frames = last - first > 1 && width > 110 ? [first, (first + last) >> 1, last - 1] : [first];
    return frames.map((frame) => media.thumb(item.media, frame, () => this.refresh()));
  }
}

function buildItem(item) {
  const handle = (side) => Object.assign(element("span", { class: `pt-handle pt-${side}`, role: "slider", tabindex: 0, "data-side": side }), { item });
  const shown = element("div", { class: "pt-item", role: "slider", tabindex: 0, "aria-valuemin": 0 },
    element("span", { class: "film" }), element("span", { class: "tag" }), element("span", { class: "tag anchor", title: "Stays at the end" }, "⇥"), handle("start"), handle("end"));
  return Object.assign(shown, { item });
}

function tile(url, name) {
  const made = element("span", {}, url ? "" : name);
  if (url) made.style.backgroundImage = `url("${url}")`;
  return made;
}

/** A preset in small: where it has pictures. */
function glyph({ slots }) {
  const bars = slots.map(({ at, take }) => {
    const width = take ? 7 : 3;
    return `<rect x="${at === 0 ? 0 : at === "middle" ? 8.5 : 20 - width}" width="${width}" height="8" rx="1"/>`;
  });
  const made = element("template");
  made.innerHTML = `<svg viewBox="0 0 20 8" width="16" height="7" aria-hidden="true"><rect width="20" height="8" rx="1" opacity=".25"/>${bars.join("")}</svg>`;
  return made.content.firstChild;
}

/** The page's colours as canvases need them, and the pixels of the screen for each of the page's. */
function readTheme(root) {
  const style = getComputedStyle(root);
  const [red, green, blue] = style.color.match(/[\d.]+/g).map(Number);
  root.dataset.theme = 0.3 * red + 0.6 * green + 0.1 * blue < 128 ? "light" : "dark";
  const scale = (root.getBoundingClientRect().width / root.offsetWidth) * devicePixelRatio || 1;
  const [paper, accent] = ["--paper", "--accent"].map((name) => style.getPropertyValue(name).trim());
  return { ink: style.color, paper, accent, ratio: clamp(Math.ceil(2 * scale) / 2, 1, 3) };
}
