/** What hands do on a timeline: pointer, keys, clipboard, dropped files. A gesture ends in one change of the value. */

import { BAR, BAR_BOTTOM, GUTTER, NOISE, NOISE_TOP, latentAt } from "./draw.js";
import { STRIDE, anchored, clamp, describePlace, freePlace, mix, noiseOf, setNoise } from "./format.js";
import { filesOf } from "./media.js";

const THRESHOLD = 4; // pixels, before a press becomes a drag
const STEP = 0.05; // of noise

/** @param {import("./view.js").Timeline} ui */
export function attachHands(ui) {
  const { root, lanes } = ui;
  /** @type {import("./types").Gesture|null} */
  let gesture = null;

  const on = (kinds, react, options) => kinds.split(" ").forEach((kind) => root.addEventListener(kind, react, options));
  const keep = (event) => (event.preventDefault(), event.stopPropagation());

  /** The pointer in the lanes' own pixels, whatever the zoom. */
  function point(event) {
    const box = lanes.getBoundingClientRect();
    const scale = box.width / lanes.offsetWidth || 1;
    const x = (event.clientX - box.left) / scale - GUTTER + ui.scroll;
    return { x, y: (event.clientY - box.top) / scale, latent: latentAt(ui.edges, x) };
  }

  function gestureOf(event, at) {
    if (event.target === ui.overview) return overviewGesture(ui);
    const [handle, shown] = [".pt-handle", ".pt-item"].map((kind) => event.target.closest(kind));
    (handle ?? shown ?? root).focus({ preventScroll: true });
    if (shown) ui.select(shown.item);
    if (handle) return trimGesture(ui, shown.item, handle.dataset.side === "start", at);
    if (shown) return moveGesture(ui, shown.item, at);
    if (at.y > NOISE_TOP && at.y < NOISE_TOP + NOISE) return noiseGesture(ui, at);
    if (at.y < NOISE_TOP) ui.select(null);
    return null;
  }

  on("pointerdown", (event) => {
    if (event.button) return;
    event.stopPropagation();
    if (event.target !== ui.overview && !lanes.contains(event.target)) return;
    event.preventDefault();
    gesture = gestureOf(event, point(event));
    if (gesture) root.setPointerCapture(event.pointerId);
  });
  on("pointermove", (event) => {
    if (!gesture) return;
    event.stopPropagation();
    gesture.move(point(event));
    ui.later();
  });
  on("pointerup pointercancel", (event) => {
    if (!gesture) return;
    event.stopPropagation();
    const ended = gesture;
    gesture = ui.ghost = ui.dragged = null;
    if (event.type === "pointercancel") ui.setValue(ui.text);
    else ended.end?.();
    ui.refresh();
  });
  on("pointerenter", () => gesture || ui.refresh());
  on("dblclick", (event) => {
    event.stopPropagation();
    if (lanes.contains(event.target) && !event.target.closest(".pt-item:not(.empty)")) ui.pick(point(event).latent);
  });
  on("wheel", (event) => {
    const way = event.shiftKey ? event.deltaY : event.deltaX;
    if (ui.overview.hidden || !way) return;
    keep(event);
    ui.scrollTo(ui.scroll + way);
  }, { passive: false });

  // --- files and clipboard

  on("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    keep(event);
    ui.ghost = ghostAt(point(event).latent, 1);
    ui.later();
  });
  on("dragleave drop", (event) => {
    ui.ghost = null;
    ui.later();
    if (event.type !== "drop") return;
    keep(event);
    ui.addFiles(filesOf(event.dataTransfer), point(event).latent);
  });
  on("paste", (event) => {
    const files = filesOf(event.clipboardData);
    const item = readItem(event.clipboardData.getData("text/plain"));
    if (event.target.closest("input") || (!files.length && !item)) return;
    keep(event);
    if (item) pasteItem(ui, item);
    else ui.addFiles(files, afterSelected(ui));
  });
  on("copy cut", (event) => {
    if (!ui.selected || event.target.closest("input")) return;
    keep(event);
    event.clipboardData.setData("text/plain", JSON.stringify({ pusa_timeline_item: ui.selected }));
    if (event.type === "cut") ui.removeItem(ui.selected);
  });

  // --- keys

  on("focusin", ({ target: { item } }) => {
    if (!item || gesture) return;
    if (item !== ui.selected) ui.select(item);
    const span = ui.spanOf(item);
    const [left, right] = span ? [ui.edges[span.first], ui.edges[span.last + 1]] : [ui.scroll, ui.scroll];
    if (left < ui.scroll || right > ui.scroll + ui.width) ui.scrollTo((left + right - ui.width) / 2);
  });
  on("keydown", (event) => {
    const { key, target } = event;
    const command = event.ctrlKey || event.metaKey;
    if (target.closest("input") || (command && "cvx".includes(key.toLowerCase()))) return event.stopPropagation(); // not for the node
    if (command || (target.closest("button") && (key === "Enter" || key === " "))) return;
    const side = target.dataset.side;
    const action = key === "+" ? () => ui.pick(afterSelected(ui)) : ui.selected && actionOf(ui, event, side);
    if (!action) return;
    keep(event);
    action();
    const shown = ui.elements.get(ui.selected);
    (side ? shown?.querySelector(`.pt-${side}`) : shown)?.focus({ preventScroll: true });
  });
}

/** @param {string} [side] of the clip whose handle has the focus */
function actionOf(ui, { key, altKey }, side) {
  const item = ui.selected;
  const way = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1 }[key];
  const latent = ui.spanOf(item)?.first ?? ui.latents;
  if (way && altKey && key.length > 8) return () => ui.setNoise(item, (noise, i, count) => noise + (STEP * way * i) / Math.max(1, count - 1)); // left, right: tilts
  if (way && altKey) return () => ui.setNoise(item, (noise) => noise + STEP * way);
  if (way && side) return () => (ui.trim(item, side === "start", side === "start" ? -way : way) ? ui.changedItem(item) : ui.say("The clip cannot be cut there."));
  if (way) return () => stepTo(ui, item, latent, way);
  const actions = {
    Home: () => ui.moveTo(item, 0), End: () => ui.moveTo(item, ui.latents - 1),
    Delete: () => ui.removeItem(item), Backspace: () => ui.removeItem(item),
    h: () => ui.toggleHold(), Escape: () => ui.select(null),
  };
  return actions[key];
}

/** One latent frame on, over what is in the way. */
function stepTo(ui, item, latent, way) {
  const [occupied, count] = [ui.occupied(item), ui.countOf(item)];
  for (let to = latent + way; to >= 0 && to + count <= occupied.length; to += way) {
    if (occupied.slice(to, to + count).some(Boolean)) continue;
    item.at = anchored(to, count, ui.length);
    return ui.changedItem(item, to === latent + way ? "" : "Jumped over what is there. ");
  }
  ui.say(`${ui.nameOf(item)} is at the ${way < 0 ? "start" : "end"}.`);
}

/** The latent frame behind the selected item. */
function afterSelected(ui) {
  const span = ui.selected && ui.spanOf(ui.selected);
  return span ? span.last + 1 : null;
}

function readItem(text) {
  try {
    return JSON.parse(text).pusa_timeline_item;
  } catch {
    return null; // other text
  }
}

function pasteItem(ui, item) {
  const count = ui.countOf(item);
  const free = ui.freeNear(afterSelected(ui) ?? 0, count);
  if (free == null) return ui.say("There is no room for another one.");
  ui.selected = { ...item, at: anchored(free, count, ui.length) };
  ui.items.push(ui.selected);
  ui.changedItem(ui.selected, "Pasted ");
  ui.elements.get(ui.selected).focus();
}

// --- gestures: `move` shows, `end` changes

function ghostAt(first, count, more = "") {
  const last = first + count - 1;
  return { first, last, text: describePlace({ frame: STRIDE * first, first, last }) + more };
}

function moveGesture(ui, item, from) {
  const [count, span] = [ui.countOf(item), ui.spanOf(item)];
  const shown = ui.elements.get(item);
  const [left] = ui.boxOf(item, 0, [span], count);
  const grip = span && count > 1 ? from.latent - span.first : 0;
  let to = null;
  return {
    move(at) {
      if (to == null && Math.abs(at.x - from.x) < THRESHOLD) return;
      to = ui.freeNear(at.latent - grip, count, item);
      if (to == null) return;
      item.at = anchored(to, count, ui.length);
      ui.dragged = { item, box: [left + at.x - from.x, parseFloat(shown.style.width)] };
      ui.ghost = ghostAt(to, count, to === clamp(at.latent - grip, 0, ui.latents - count) ? "" : " (next free)");
      const side = at.x - ui.scroll < 16 ? -10 : at.x - ui.scroll > ui.width - 16 ? 10 : 0; // beyond what is visible
      ui.scroll = clamp(ui.scroll + side, 0, ui.edges[ui.edges.length - 1] - ui.width);
    },
    end: () => to != null && ui.changedItem(item),
  };
}

function trimGesture(ui, item, atStart, from) {
  let done = 0;
  return {
    move(at) {
      const wanted = (at.latent - from.latent) * (atStart ? -1 : 1);
      while (done !== wanted && ui.trim(item, atStart, Math.sign(wanted - done))) done += Math.sign(wanted - done);
      const { first, last } = ui.spanOf(item);
      ui.ghost = { first, last, text: `${STRIDE * (last - first) + 1} frames` };
    },
    end: () => ui.changedItem(item),
  };
}

/** Draws noise: on one latent frame its value, over several a ramp. */
function noiseGesture(ui, from) {
  const noiseAt = ({ y }) => Math.round(clamp((BAR_BOTTOM - y) / BAR, 0, 1) / STEP) / Math.round(1 / STEP);
  const placed = ui.items.map((item) => ({ item, span: ui.spanOf(item) })).filter(({ span }) => span);
  const before = placed.map(({ item, span }) => ({ item, first: span.first, last: span.last, noise: noiseOf(item, span.last - span.first + 1) }));
  const owner = before.find(({ first, last }) => first <= from.latent && from.latent <= last)?.item;
  if (!owner) return null;
  const start = noiseAt(from);
  let words = "";
  ui.select(owner);
  return {
    move(at) {
      const [low, high, end] = [Math.min(from.latent, at.latent), Math.max(from.latent, at.latent), noiseAt(at)];
      const value = (latent) => (low === high ? end : mix(start, end, (latent - from.latent) / (at.latent - from.latent)));
      for (const { item, first, noise } of before) setNoise(item, noise.map((old, i) => (first + i < low || first + i > high ? old : value(first + i))));
      words = low === high ? `noise ${end}` : `ramp from ${start} to ${end}`;
      ui.ghost = { first: low, last: high, text: words };
    },
    end() {
      if (!words) this.move(from);
      ui.changed(`${ui.nameOf(owner)}: ${words}`);
    },
  };
}

function overviewGesture(ui) {
  const whole = ui.edges[ui.edges.length - 1];
  return { move: (at) => (ui.scroll = clamp(((at.x - ui.scroll) / ui.width) * whole - ui.width / 2, 0, whole - ui.width)) };
}
