"""Trains Pusa LoRAs: python -m trainer cache, then python -m trainer train (see README.md beside this file)."""
