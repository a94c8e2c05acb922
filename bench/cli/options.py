"""The arguments and options of the commands, as typer takes them. Imports no torch."""

import os
from glob import escape as escape_glob
from glob import glob
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.text import has_controls
from bench.types import StyleName

DeviceName = Literal["auto", "cpu", "cuda"]
TrackerName = Literal["mlflow", "trackio", "wandb"]
ListedKind = Literal["methods", "models", "datasets", "suites"]


def path_of(given: str | Path) -> Path:
    """Return a path, ~ expanded: a shell leaves it alone in `--results=~/kd`.

    Empty text is refused, as a variable that is not set gives it. So are control characters: in messages, a name with a
    line break would look like two messages.
    """
    text = str(given)  # typer gives defaults as they are
    if not text:
        raise typer.BadParameter("it is empty. Name a path; the current folder is .")
    if has_controls(text):
        raise typer.BadParameter(f"{text!r}: a path has no control characters, such as line breaks. Rename it")
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise typer.BadParameter(f"{text!r}: there is no such user; for a folder of that name, write ./{text}")
    return Path(path)


def _suite(text: str) -> Path:
    """Return the file of a suite, which may be given by name; `bench.suite` takes a while to import."""
    from bench.suite.packaged import find_suite

    return find_suite(path_of(text))


def _suites_and_files(incomplete: str) -> list[str]:
    """Return what a shell may complete an argument to: names of suites that come with the package, and YAML files."""
    from bench.suite.packaged import packaged_suites

    names = [name for name in packaged_suites() if name.startswith(incomplete)]
    start = escape_glob(incomplete)
    return [*names, *glob(f"{start}*.yaml"), *glob(f"{start}*/")]


SuiteFile = Annotated[
    Path,
    typer.Argument(
        metavar="SUITE.yaml",
        help="A suite file, or the name of a suite that comes with the package.",
        show_default=False,
        parser=_suite,
        autocompletion=_suites_and_files,
    ),
]
Side = Annotated[
    Path,
    typer.Argument(
        help="A suite, a bundle, a folder of results, or the folder of a suite's report, such as results/quickstart.",
        show_default=False,
        parser=path_of,
        autocompletion=_suites_and_files,
    ),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or the start of it.", show_default=False)]
Results = Annotated[
    Path, typer.Option("--results", metavar="DIR", help="The folder of runs and tables.", parser=path_of)
]
Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="The folder of data sets; downloads go there.", parser=path_of)
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="GLOB", help="Only rows whose label (or, failing that, method) matches; may be repeated."
    ),
]
Pairs = Annotated[
    list[str] | None,
    typer.Option("--pairs", metavar="GLOB", help="Only pairs, as `teacher->student`, that match; may be repeated."),
]
Device = Annotated[DeviceName, typer.Option("--device", help="The device to train on; cuda uses all GPUs.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        metavar="N",
        min=1,
        help="How many processes train at a time; by default one per GPU, on a CPU as many as cores and memory allow.",
        show_default=False,
    ),
]
Seeds = Annotated[
    int | None, typer.Option("--seeds", metavar="N", min=1, help="The number of seeds, instead of the suite's.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the suite, for example training.epochs=2; may be repeated.",
    ),
]
Teachers = Annotated[
    Path | None,
    typer.Option(
        "--teachers",
        metavar="DIR",
        help="The folder of the published teachers, as RepDistiller or mdistiller lay them out; short for --set "
        "teachers=DIR.",
        parser=path_of,
    ),
]
Plugin = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", metavar="FILE.py", help="A file of a method or networks; may be repeated.", parser=path_of
    ),
]
FigureStyle = Annotated[
    StyleName,
    typer.Option(
        "--style",
        help="Of the figures: `paper` also writes them for a column of a paper, 3.3 inches wide and without titles.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Find what would fail, list what would run, and train nothing.")
]
OnSlurm = Annotated[bool, typer.Option("--slurm", help="Submit jobs to the SLURM cluster and exit.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Retry runs that failed, diverged, were refused or are stale.")
]
AcceptChanged = Annotated[
    bool, typer.Option("--accept-changed", help="State that changed code of methods gives the same numbers.")
]
KeepCheckpoints = Annotated[bool, typer.Option("--keep-checkpoints", help="Keep checkpoints of finished runs.")]
Track = Annotated[
    TrackerName | None,
    typer.Option("--track", help="Also pass the epochs to this program, whose files are kept in the results."),
]
