/** The setting for the pack's language, and word to the server of which language the page shows. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const OWN = "Pusa.Language", AUTO = "auto";
const LANGUAGES = { [AUTO]: "as ComfyUI", en: "English", zh: "中文", "zh-TW": "繁體中文", ja: "日本語", ko: "한국어", de: "Deutsch" };

/** The language of the pack's words: its own setting, else the page's. */
export function language() {
	const settings = app.extensionManager.setting, own = settings.get(OWN);
	return own && own !== AUTO ? own : settings.get("Comfy.Locale") || "en";
}

app.registerExtension({
	name: "Pusa.Language",
	settings: [
		{
			id: OWN,
			category: ["Pusa", "Language"],
			name: "Language of Pusa's nodes, reports and errors",
			tooltip: "German is not among ComfyUI's own languages: choose it here. Reload the page after a change.",
			type: "combo",
			options: Object.entries(LANGUAGES).map(([value, text]) => ({ text, value })),
			defaultValue: AUTO,
		},
	],
	setup() {
		// what comes from the browser is no setting of the server
		const shown = app.extensionManager.setting.get("Comfy.Locale");
		if (shown) api.storeSetting("Pusa.PageLanguage", shown);
	},
});
