"""The caption of a table: how its numbers were produced, and what its marks mean."""

from bench.plan import Plan
from bench.report.conditions import conditions
from bench.report.frame import Frame
from bench.report.layout import span
from bench.report.paper import KD, row_named
from bench.suite import NONE
from bench.suite.tuning import TUNED
from bench.tasks import TASKS


def caption(frame: Frame) -> str:
    """Return how the numbers of a table were produced, and what its marks mean."""
    return " ".join(filter(None, (conditions(frame.plan), marks(frame))))


def marks(frame: Frame) -> str:
    """Return what the marks of a table mean, and the smallest detectable differences; "" if nothing is compared."""
    methods = {one.label: one.cell.in_grid for one in frame.tabled if one.is_method}
    seeds = frame.plan.suite.runs_per_row
    sentences = []
    if seeds == 1 and methods:
        sentences.append("Nothing is bold: one seed cannot tell a difference from chance.")
    elif sum(not in_grid for in_grid in methods.values()) > 1:
        apart = ", students and teachers separately" if TASKS[frame.plan.suite.task].trains_teachers else ""
        sentences.append(f"Bold: the methods that cannot be told apart from the best one at 5 %{apart}.")
    if seeds > 1 and sum(methods.values()) > 1:
        sentences.append("No row of a grid is bold: the best of a grid was found on the test split.")
    if any(one.arrow for one in frame.tabled):
        sentences.append("(↑) and (↓): above and below KD.")
    references = [NONE, row_named(frame.plan.cells, KD)] if any(one.n > 1 for one in frame.tabled) else []
    differences = list(filter(None, (_difference(frame, one) for one in references if one)))
    if differences:
        sentences.append(
            f"With these seeds, a true difference {' and one '.join(differences)} is found with 80 % probability "
            "(5 % level)."
        )
    return " ".join(sentences)


def _difference(frame: Frame, reference: str) -> str:
    """Return the smallest detectable differences from a row, over all columns; "" if there are none."""
    own = span(frame.detectable.get(reference, ()))
    tuned = span(frame.detectable.get(f"{reference}{TUNED}", ()))
    notes = ["by column"] if " to " in own + tuned else []
    if tuned:
        notes.append(f"tuned rows: {tuned}" if own else "tuned rows")
    if not (own or tuned):
        return ""
    said = f"from {reference} of {own or tuned} points"
    return f"{said} ({'; '.join(notes)})" if notes else said


def published_source(plan: Plan) -> str:
    """Return the source of the published numbers and the meaning of the difference."""
    assert plan.suite.published is not None  # else no number is published
    source = f"{plan.suite.published.source}, table {plan.suite.published.table}"
    return f"Published: {source}; the difference is the last epoch's mean minus the published number."
