"""The look of each row: colour, line and marker, the same in all of a suite's figures, and distinct in greyscale."""

import zlib
from collections.abc import Mapping
from itertools import chain, count
from typing import Any

Look = dict[str, Any]  # a line's colour, style and marker, as matplotlib takes them
# Glasbey et al., Colour displays for categorical images, 2007: each colour is far from those before it. The list is
# colorcet's `glasbey_bw_minc_20_maxl_70` (CC BY 4.0), readable on white, without black and its palest colours.
COLOURS = (
    *("#0774d8", "#d60000", "#018700", "#8c3bff", "#e6a500", "#00acc6", "#ff7ed1", "#6b004f", "#573b00", "#005659"),
    *("#15e18c", "#0000dd", "#a17569", "#bf03b8", "#645472", "#790000", "#729a7c", "#ff7752", "#004b00", "#8e7b01"),
    *("#f2007b", "#8eba00", "#a57bb8", "#5901a3", "#a03a52", "#9e4b00", "#546744", "#5e7b87", "#60383b", "#8287ff"),
    *("#e252ff", "#bcb6ff", "#e2afaf", "#a1c8c8"),
)
LINES = ("-", "--", "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (6, 2, 2, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d")  # 5 and 13: 65 looks in grey, none twice
METHODS = (  # a method's place is its look: add new ones at the end
    *("kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ft", "fsp", "nst", "crd", "dkd", "dist", "ofd"),
    *("reviewkd", "simkd", "srrl", "nkd", "mlld", "ctkd", "catkd", "itrd", "ttm", "wttm", "crd_local", "ofa"),
)
PLAIN: Look = {"color": "0.35", "linestyle": ":", "marker": "."}  # of `none`
TAUGHT: Look = {"color": "0.0", "linestyle": (0, (8, 2)), "marker": "+"}  # of `teacher`


def look(number: int) -> Look:
    """Return colour, line style and marker of the row or line with that number."""
    colour, line, marker = (choices[number % len(choices)] for choices in (COLOURS, LINES, MARKERS))
    return {"color": colour, "linestyle": line, "marker": marker}


def looks(rows: Mapping[str, str]) -> dict[str, Look]:
    """Return the look of each row, by label.

    A method at its defaults has the same look in all suites. The look of another row follows from its label, or is the
    next one that is free. No two rows have the same look; of up to 34 rows, no two have the same colour.

    Args:
        rows: the method of each row at its method's defaults, or "", by label.
    """
    numbers: dict[str, int] = {}
    for label, method in rows.items():
        if method in METHODS and METHODS.index(method) not in numbers.values():
            numbers[label] = METHODS.index(method)
    for label in (label for label in rows if label not in numbers):
        start = zlib.crc32(label.encode())
        places = chain(((start + i) % len(COLOURS) for i in range(len(COLOURS))), count(len(COLOURS)))
        numbers[label] = next(place for place in places if place not in numbers.values())
    return {label: look(numbers[label]) for label in rows}
