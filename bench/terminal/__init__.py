"""Formats what the command line prints."""
