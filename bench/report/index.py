"""The page of all suites in a folder of results: results/index.html, with a link to each report. Imports no torch."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from io import TextIOWrapper
from pathlib import Path
from urllib.parse import quote

from bench.reading import open_regular
from bench.report.folder import PAGE, cells_of_table, finished_seeds
from bench.report.html import filled
from bench.store import Store, write_whole
from bench.types import RequestError

INDEX = "index.html"
HEAD = 16_384  # characters at the beginning of a page that include its title
EACH = ("*", "*/with_*", "*/unfinished")  # folders of reports; see `bench.report.folder`


@dataclass(frozen=True)
class Listed:
    """A report of the results folder."""

    name: str  # of its folder, below the results
    address: str  # of its page
    title: str
    pairs: int
    rows: int
    statuses: dict[str, int]  # number of cells by their status
    finished: int  # number of finished seeds of all cells


def write(store: Store) -> Path:
    """Write the page of all reports; return its path."""
    path = store.root / INDEX
    reports = list(listed(store.root))
    write_whole(path, filled("index", ["table"], reports=reports))
    return path


def listed(results: Path) -> Iterator[Listed]:
    """Yield the reports of a folder of results, by name, without those whose table or page cannot be read."""
    pages = {page for pattern in EACH for page in results.glob(f"{pattern}/{PAGE}")}
    for page in sorted(pages):
        try:
            cells = cells_of_table(page.parent)
            with TextIOWrapper(open_regular(page), encoding="utf-8") as file:
                head = file.read(HEAD)
        except (RequestError, OSError, UnicodeDecodeError):
            continue
        title = re.search(r"<title>(.*?)</title>", head, re.DOTALL)
        name = page.parent.relative_to(results).as_posix()
        yield Listed(
            name=name,
            address=quote(f"{name}/{PAGE}"),
            title=unescape(title[1]) if title else name,
            pairs=len({row.get("pair") for row in cells}),
            rows=len({row.get("label") for row in cells}),
            statuses=dict(Counter(row.get("status", "") for row in cells)),
            finished=finished_seeds(cells),
        )
