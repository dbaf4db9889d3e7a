/** Puts the timeline on the Pusa Timeline node: a widget of the page, in both of its renderers. */

import { app } from "../../../scripts/app.js";
import { build } from "./elements.js";
import { readSchedule, sigmaGrid } from "./format.js";
import { attachHands } from "./hands.js";
import { Timeline } from "./view.js";

const WIDTH = 660, HEIGHT = 352;
const REACH = 40; // nodes behind, among which the sampler is looked for

document.head.append(build("link", { rel: "stylesheet", href: new URL("timeline.css", import.meta.url) }));

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);
const isLinked = (node, name) => node.inputs?.some((input) => input.name === name && input.link != null);

function nodesBehind(node) {
	const found = new Set([node]);
	for (const each of found) {
		if (found.size > REACH) break;
		each.outputs?.forEach((_, slot) => each.getOutputNodes(slot)?.forEach((next) => found.add(next)));
	}
	return [...found].slice(1);
}

function samplingOf(node, watch) {
	const found = { steps: 10, shift: 5, fps: 16, boundary: null, ar_step: 0, causal_block_size: 1, moving_frames: 0 };
	for (const next of nodesBehind(node).reverse()) {
		for (const name in found) {
			const widget = widgetOf(next, name);
			watch(widget);
			if (widget?.value > 0 && (name !== "boundary" || isLinked(next, "low_noise_model"))) found[name] = +widget.value;
		}
	}
	if (found.moving_frames) Object.assign(found, { steps: found.steps * found.moving_frames, ar_step: found.steps });
	return { ...found, sigmas: sigmaGrid(found.steps, found.shift) };
}

function inputsOf(node) {
	return node.inputs.flatMap(({ name, link }, slot) => {
		const input = link != null && +name.match(/^images\.image(\d+)$/)?.[1];
		return input ? { input, picture: node.getInputNode(slot)?.imgs?.[0]?.src } : [];
	});
}

function commit() {
	const tracker = app.extensionManager.workflow.activeWorkflow?.changeTracker;
	(tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

function chain(owner, method, more) {
	const before = owner[method];
	owner[method] = function (...values) {
		queueMicrotask(() => more(...values));
		return before?.apply(this, values);
	};
}

const left = new Map(); // by id, the elements of nodes that went: after an undo Nodes 2.0 goes on showing them

function timelineWidget(node, name, spec) {
	const watched = new Set();
	const watch = (widget) => !widget || watched.has(widget) || (watched.add(widget), chain(widget, "callback", () => ui.refresh()));
	let schedule = []; // what the last run made
	const ui = new Timeline({
		length() {
			const own = widgetOf(node, "length");
			const given = isLinked(node, own.name) && node.getInputNode(node.findInputSlot(own.name))?.widgets?.[0];
			[given, own].forEach(watch);
			return +given?.value || +own.value || 81;
		},
		sampling: () => samplingOf(node, watch),
		inputs: () => inputsOf(node),
		connected: () => (isLinked(node, "keyframes") ? schedule : []),
		commit,
		set(type, values) {
			const next = nodesBehind(node).find((each) => each.type === type);
			for (const widget of next?.widgets ?? []) widget.value = values[widget.name] ?? widget.value;
			return next;
		},
		settings: () => node.properties,
	});
	attachHands(ui);
	const widget = node.addDOMWidget(name, "PUSA_TIMELINE", ui.root, {
		getValue: () => ui.text,
		setValue: (text) => ui.setValue(text),
		getMinHeight: () => HEIGHT,
		hideOnZoom: false,
		margin: 6,
	});
	widget.value = spec[1].default;
	chain(node, "onConnectionsChange", () => ui.refresh());
	chain(node, "onRemoved", () => left.set(node.id, ui.root));
	chain(node, "onConfigure", () => setTimeout(() => ui.root.isConnected || left.get(node.id)?.replaceWith(ui.root)));
	chain(node, "onExecuted", (output) => {
		schedule = readSchedule(output.schedule[0]);
		ui.refresh();
		ui.say(output.text[0]);
	});
	return { widget, minWidth: WIDTH, minHeight: HEIGHT };
}

app.registerExtension({ name: "pusa.timeline", getCustomWidgets: () => ({ PUSA_TIMELINE: timelineWidget }) });
