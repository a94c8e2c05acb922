"""The hook of MkDocs: fills the places that only the site has, and adds files from outside `docs/`.

Those places are the changelog and the Python API; `make reference` fills all others in the checkout. A page may link to
any file of the repository: the file is copied into the site's folder `repository`.
"""

import os.path
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from generated.places import filled
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS, COPIES = "docs", "repository"
MARK = re.compile(r"<!-- (generated: [\w ]+|end) -->\n")
LINK = re.compile(r"(?<=\]\()[^)#\s:]+")  # to a file, without the part after #


def changelog() -> str:
    """Return the changelog; its links are relative to the repository's root."""
    return re.sub(r"\]\((?!\w+:|#)", "](../", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))


WRITERS: dict[str, Callable[..., str]] = {"changelog": changelog, "api": lambda: "::: bench.api\n"}


def complete(text: str) -> str:
    """Return the text of a page with the site's places filled, and without marks."""
    return MARK.sub("", filled(text, WRITERS))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from outside `docs/` that pages link to, and those that these link to."""
    pages = [file for file in files if file.is_documentation_page() and file.src_uri.endswith(".md")]
    for page in pages:  # grows during the loop
        for target in linked(page.src_uri, complete(page.content_string)):
            uri = page_of(target)
            if uri.startswith(COPIES) and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
                if uri.endswith(".md"):
                    pages.append(files.src_uris[uri])
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text of a page, with what is generated and with links to the copies of files."""
    here = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        target = target_of(here, link[0])
        return link[0] if target is None else os.path.relpath(page_of(target), os.path.dirname(here))

    return LINK.sub(moved, complete(markdown))


def linked(uri: str, text: str) -> Iterator[str]:
    """Yield the files that a page links to, as paths in the repository."""
    for link in LINK.findall(text):
        if target := target_of(uri, link):
            yield target


def target_of(uri: str, link: str) -> str | None:
    """Return the file that a page's link means, as a path in the repository; None if there is no such file."""
    page = uri.removeprefix(f"{COPIES}/") if uri.startswith(f"{COPIES}/") else f"{DOCS}/{uri}"
    path = os.path.normpath(os.path.join(os.path.dirname(page), link))
    return path if (ROOT / path).is_file() and not path.startswith("..") else None


def page_of(path: str) -> str:
    """Return where a file of the repository is in the site, relative to the site's sources."""
    if path == "CHANGELOG.md":
        return "changelog.md"
    return path.removeprefix(f"{DOCS}/") if path.startswith(f"{DOCS}/") else f"{COPIES}/{path}"
