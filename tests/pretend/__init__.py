"""The pack on a pretend card: a program that runs users' scenarios on it, for `tests/comfy/test_device.py`."""

STEPS = (1, 1, 2)  # once to load the models; what grows from the second to the third run grows with model evaluations
# Cards by the share of a model's weights that have room beside what ComfyUI computes with; with dynamic VRAM the last.
BUDGETS = {"24 GB": 1.0, "16 GB": 0.55, "8 GB": 1 / 3, "--novram": 1.0, "dynamic": 0.75}
