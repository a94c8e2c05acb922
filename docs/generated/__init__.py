"""Writes the reference pages from the code, when the documentation is built."""
