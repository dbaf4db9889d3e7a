/** What hands do on a timeline: pointer, keys, clipboard, dropped files. A gesture ends in one change of the value. */

import { BAR, BAR_BOTTOM, GUTTER, NOISE_TOP, latentAt } from "./draw.js";
import { STRIDE, anchored, clamp, mix, setNoise } from "./format.js";
import { filesOf } from "./media.js";
import { boxOf } from "./shelf.js";
import { noiseWords, placeWords, t } from "./words.js";

const THRESHOLD = 4; // pixels, before a press becomes a drag
const STEP = 0.05; // of noise

/** @param {import("./view.js").Timeline} ui */
export function attachHands(ui) {
  const { root, lanes } = ui;
  let gesture = null; // see types.d.ts

  /** Listens; what `react` has used is not for the page. */
  function on(kinds, react) {
    const listen = (event) => react(event) && (event.preventDefault(), event.stopPropagation());
    for (const kind of kinds.split(" ")) root.addEventListener(kind, listen, { passive: false });
  }

  /** The pointer in the lanes' own pixels, whatever the zoom. */
  function point(event) {
    const box = lanes.getBoundingClientRect();
    const scale = box.width / lanes.offsetWidth || 1;
    const x = (event.clientX - box.left) / scale - GUTTER + ui.scroll;
    return { x, y: (event.clientY - box.top) / scale, latent: latentAt(ui.edges, x) };
  }

  function gestureOf({ target }, at) {
    if (target === ui.overview) return overviewGesture(ui);
    const [handle, shown] = [".pt-handle", ".pt-item"].map((kind) => target.closest(kind));
    (handle ?? shown ?? root).focus({ preventScroll: true });
    if (shown) ui.select(shown.item);
    if (handle) return trimGesture(ui, shown.item, handle.dataset.side === "start", at);
    if (shown) return moveGesture(ui, shown.item, at);
    if (at.y > NOISE_TOP && at.y < BAR_BOTTOM + 3) return noiseGesture(ui, at);
    if (at.y < NOISE_TOP) ui.select(null);
    return null;
  }

  on("pointerdown", (event) => {
    if (event.button) return false;
    event.stopPropagation();
    if (event.target !== ui.overview && !lanes.contains(event.target)) return false;
    gesture = gestureOf(event, point(event));
    if (gesture) root.setPointerCapture(event.pointerId);
    return true;
  });
  on("pointermove", (event) => {
    gesture?.move(point(event));
    if (gesture) ui.later();
    return gesture;
  });
  on("pointerup pointercancel", (event) => {
    const ended = gesture;
    if (!ended) return false;
    gesture = ui.ghost = ui.dragged = null;
    if (event.type === "pointercancel") ui.setValue(ui.text);
    else ended.end?.();
    ui.refresh();
    return true;
  });
  on("pointerenter", () => gesture || ui.refresh());
  on("dblclick", (event) => {
    if (lanes.contains(event.target) && !event.target.closest(".pt-item:not(.empty)")) ui.pick(point(event).latent);
    return true;
  });
  on("wheel", ({ shiftKey, deltaX, deltaY }) => {
    const way = shiftKey ? deltaY : deltaX;
    if (ui.overview.hidden || !way) return false;
    ui.scrollTo(ui.scroll + way);
    return true;
  });

  // --- files and clipboard

  on("dragover dragleave drop", (event) => {
    const at = point(event).latent;
    ui.ghost = event.type === "dragover" ? ghostAt(at, 1) : null;
    ui.later();
    if (event.type === "drop") ui.addFiles(filesOf(event.dataTransfer), at);
    return event.dataTransfer.types.includes("Files");
  });
  on("paste", ({ clipboardData, target }) => {
    const [files, item] = [filesOf(clipboardData), readItem(clipboardData.getData("text/plain"))];
    if (target.closest("input") || (!files.length && !item)) return false;
    if (item) ui.insert(item, afterSelected(ui) ?? 0, ui.placeOf(item).count, t("pasted"));
    else ui.addFiles(files, afterSelected(ui));
    return true;
  });
  on("copy cut", ({ clipboardData, target, type }) => {
    if (!ui.selected || target.closest("input")) return false;
    clipboardData.setData("text/plain", JSON.stringify({ pusa_timeline_item: ui.selected }));
    if (type === "cut") ui.removeItem(ui.selected);
    return true;
  });

  // --- keys

  on("focusin", ({ target: { item } }) => {
    if (!item || gesture) return;
    if (item !== ui.selected) ui.select(item);
    const { first, count } = ui.placeOf(item);
    const [left, right] = [ui.edges[first], ui.edges[Math.min(ui.latents, first + count)]];
    if (left < ui.scroll || right > ui.scroll + ui.width) ui.scrollTo((left + right - ui.width) / 2);
  });
  on("keydown", (event) => {
    const { key, target, target: { dataset: { side } } } = event;
    const command = event.ctrlKey || event.metaKey;
    if (target.closest("input") || (command && "cvx".includes(key.toLowerCase()))) event.stopPropagation(); // not for the node
    if (target.closest("input") || command || (target.closest("button") && (key === "Enter" || key === " "))) return false;
    const action = key === "+" ? () => ui.pick(afterSelected(ui)) : ui.selected && actionOf(ui, event, side);
    if (!action) return false;
    action();
    const shown = ui.elements.get(ui.selected);
    (side ? shown?.querySelector(`.pt-${side}`) : shown)?.focus({ preventScroll: true });
    return true;
  });
}

/** @param {string} [side] of the clip whose handle has the focus */
function actionOf(ui, { key, altKey }, side) {
  const item = ui.selected;
  const way = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1 }[key];
  const isTilt = key === "ArrowLeft" || key === "ArrowRight";
  if (way && altKey) return () => ui.setNoise(item, (noise, i, count) => noise + STEP * way * (isTilt ? i / Math.max(1, count - 1) : 1));
  if (way && side) return () => (ui.trim(item, side === "start", side === "start" ? -way : way) ? ui.changedItem(item) : ui.say(t("cannotCut")));
  if (way) return () => ui.moveTo(item, ui.placeOf(item).first + way, way);
  const remove = () => ui.removeItem(item);
  const actions = { Home: () => ui.moveTo(item, 0), End: () => ui.moveTo(item, ui.latents), Delete: remove, Backspace: remove, h: () => ui.toggleHold(), Escape: () => ui.select(null) };
  return actions[key];
}

/** The latent frame behind the selected item. */
function afterSelected(ui) {
  if (!ui.selected) return null;
  const { first, count } = ui.placeOf(ui.selected);
  return first + count;
}

function readItem(text) {
  try {
    return JSON.parse(text).pusa_timeline_item;
  } catch {
    return null; // other text
  }
}

// --- gestures: `move` shows, `end` changes

function ghostAt(first, count, more = "") {
  return { first, count, text: `${placeWords({ frame: STRIDE * first, first, count })} ${more}`.trim() };
}

function moveGesture(ui, item, from) {
  const { first, count, fits } = ui.placeOf(item);
  const [left, width] = boxOf(ui, ui.places(), ui.items.indexOf(item));
  const grip = fits && count > 1 ? from.latent - first : 0;
  let to = null;
  return {
    move(at) {
      if (to == null && Math.abs(at.x - from.x) < THRESHOLD) return;
      const wanted = clamp(at.latent - grip, 0, ui.latents - count);
      to = ui.freeNear(wanted, count, item);
      if (to == null) return;
      item.at = anchored(to, count, ui.length);
      ui.dragged = { item, box: [left + at.x - from.x, width] };
      ui.ghost = ghostAt(to, count, to === wanted ? "" : t("nextFree"));
      const side = at.x - ui.scroll < 16 ? -10 : at.x - ui.scroll > ui.width - 16 ? 10 : 0; // beyond what is visible
      ui.scroll = clamp(ui.scroll + side, 0, ui.edges[ui.latents] - ui.width);
    },
    end: () => to != null && ui.changedItem(item),
  };
}

function trimGesture(ui, item, atStart, from) {
  let done = 0;
  return {
    move(at) {
      const wanted = (at.latent - from.latent) * (atStart ? -1 : 1);
      const way = Math.sign(wanted - done);
      while (done !== wanted && ui.trim(item, atStart, way)) done += way;
      const { first, count } = ui.placeOf(item);
      ui.dragged = { item };
      ui.ghost = { first, count, text: t("frames", { count: STRIDE * count - 3 }) };
    },
    end: () => ui.changedItem(item),
  };
}

/** Draws noise: on one latent frame its value, over several a ramp. */
function noiseGesture(ui, from) {
  const noiseAt = ({ y }) => Math.round(20 * clamp((BAR_BOTTOM - y) / BAR, 0, 1)) / 20;
  const before = ui.places().filter(({ fits }) => fits);
  const owner = before.find(({ first, count }) => first <= from.latent && from.latent < first + count)?.item;
  if (!owner) return null;
  const start = noiseAt(from);
  let words = "";
  ui.select(owner);
  return {
    move(at) {
      const [low, high, end] = [Math.min(from.latent, at.latent), Math.max(from.latent, at.latent), noiseAt(at)];
      const value = (latent) => (low === high ? end : mix(start, end, (latent - from.latent) / (at.latent - from.latent)));
      for (const { item, first, noise } of before) setNoise(item, noise.map((old, i) => (first + i < low || first + i > high ? old : value(first + i))));
      words = noiseWords(low === high ? end : start, end);
      ui.ghost = { first: low, count: high - low + 1, text: words };
    },
    end() {
      if (!words) this.move(from);
      ui.changed(`${ui.nameOf(owner)}: ${words}`);
    },
  };
}

function overviewGesture(ui) {
  const whole = ui.edges[ui.latents];
  return { move: (at) => (ui.scroll = clamp(((at.x - ui.scroll) / ui.width) * whole - ui.width / 2, 0, whole - ui.width)) };
}
