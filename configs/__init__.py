"""Presets and the defaults list; the options themselves are the dataclasses of `recon/config.py`."""
