"""Writes the reference pages' marked places, in the checkout: `make reference`."""

from pathlib import Path

from generated.places import filled

if __name__ == "__main__":
    for page in Path(__file__).parents[1].rglob("*.md"):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
