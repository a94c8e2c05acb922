"""Speed measurements of this project, relative to a naive loop that is written like the reference implementation."""
