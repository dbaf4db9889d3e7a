"""Translations: what there is to translate, and what each language lacks. `python -m languages` writes and checks it.

locales/en/messages.json   every error and report, English to English: the key is what the code says
locales/en/nodes.json      the nodes' names, descriptions and tooltips
locales/en/main.json       the words of the pack's own widgets, written by hand
locales/<language>/messages.json, nodeDefs.json, main.json   the same keys, translated; {placeholders} stay as they are
web/docs/<Node>/<language>.md   the help page of a node

English nodes are not called nodeDefs.json, because the page would then show them before what the server says of a node.
"""

LANGUAGES = ("zh", "zh-TW", "ja", "ko", "de")  # beside English
