"""The blocks of code in a page of the documentation."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = {"bash", "python", "yaml"}
SHOWN = {"text", "bibtex"}  # output, formulas, file trees and citations: nothing to run
GENERATED = re.compile(r"<!-- generated: .*?<!-- end -->", re.DOTALL)
INFO = re.compile(r'(?P<language>\w+)(?: title="(?P<title>[^"]+)")?')


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str | None  # the file that the block is, for later blocks
    text: str
    line: int  # of its first line, in the page

    @property
    def commands(self) -> list[str]:
        """Return the commands of a shell's block: lines without comments, continued ones joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [" ".join(line.split()) for line in lines if shlex.split(line, comments=True)]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order, but none of what is generated.

    Raises:
        ValueError: a block does not say what it is, or is none of what the tests can run.
    """
    text = GENERATED.sub(lambda place: "\n" * place[0].count("\n"), page.read_text(encoding="utf-8"))
    for token in MarkdownIt("commonmark").parse(text):
        if token.type not in ("fence", "code_block"):
            continue
        line = (token.map or [0])[0] + 1
        info = INFO.fullmatch(token.info.strip())
        if info is None or info["language"] not in RUN | SHOWN:
            known = ", ".join(sorted(RUN | SHOWN))
            raise ValueError(f"{page}:{line}: a block of {token.info!r}; write a fence of one of: {known}")
        yield Block(info["language"], info["title"], token.content, line)
