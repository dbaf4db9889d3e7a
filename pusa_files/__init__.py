"""Makes files without ComfyUI: compressed LoRAs and baked checkpoints. `python -m pusa_files --help`."""
