"""The pack on a pretend card: a program that runs users' scenarios on it, for `tests/comfy/test_device.py`."""

STEPS = (1, 1, 2)  # once to load the models; what grows from the second to the third run grows with model evaluations
