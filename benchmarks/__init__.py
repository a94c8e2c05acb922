"""Measurements of speed: the product against a loop of the reference implementation's shape."""
