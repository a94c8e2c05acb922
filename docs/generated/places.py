"""The marked places of the reference pages, and what is written into each of them.

A marked place is what lies between `<!-- generated: NAME -->` and `<!-- end -->`. NAME may have an argument.
"""

import re
from collections.abc import Callable, Mapping

from generated import command_line, datasets, methods, networks, suite_file

PLACE = re.compile(r"(<!-- generated: ([\w ]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
WRITERS: dict[str, Callable[..., str]] = {  # by the names of the places
    "keys": suite_file.keys,
    "commands": command_line.commands,
    "methods": methods.overview,
    "each_method": methods.each,
    "datasets": datasets.datasets,
    "networks": networks.networks,
}


def filled(text: str, writers: Mapping[str, Callable[..., str]] = WRITERS) -> str:
    """Return the text of a page with those of its places filled that have a writer; the marks stay."""

    def fill(place: re.Match[str]) -> str:
        name, *arguments = place[2].split()
        return f"{place[1]}\n{writers[name](*arguments).strip()}\n\n{place[3]}" if name in writers else place[0]

    return PLACE.sub(fill, text)
