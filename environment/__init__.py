"""Where things run: the environment of the README's two commands, the ComfyUI folder, and a ComfyUI server.

Nothing in pusa_core or nodes needs it.
"""
