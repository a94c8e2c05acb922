"""The error by the number of teachers, where pairs differ in that number alone."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from bench.figures.arrangement import name_lines
from bench.figures.drawing import BAND_NOTE, band, grid, level
from bench.figures.findings import Findings, by_number, row_of
from bench.figures.looks import PLAIN
from bench.report.summary import Summary
from bench.suite import NONE, TEACHER


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a figure per student and kind of teacher, once a row has a result for two numbers of teachers."""
    for group, by_teachers in sorted(_by_teachers(findings).items()):
        if len(by_teachers) < 2:
            continue
        frames = {}
        for label in findings.looks:
            numbered = {n: row for n, rows in sorted(by_teachers.items()) for row in rows if row.label == label}
            frames[label] = 100 - by_number(numbered)
        plain = row_of(NONE, next(iter(by_teachers.values())))
        del frames[NONE]  # has no teacher
        if all(len(frame) < 2 for frame in frames.values()):
            continue
        figure, (axis,) = grid(findings.style, [""], 1, 3.4, [findings.title, group, BAND_NOTE])
        for label, frame in frames.items():
            if not frame.empty:
                band(axis, frame, "the teachers together" if label == TEACHER else label, findings.looks[label])
        level(axis, plain, NONE, PLAIN, is_error=True)
        axis.set_xticks(sorted(by_teachers))
        axis.set_xlabel("number of teachers")
        name_lines([axis])
        axis.set_ylabel(f"error: 100 - {plain.title} (%)")
        yield f"ensemble_{group}", figure


def _by_teachers(findings: Findings) -> dict[str, dict[float, list[Summary]]]:
    """Return the groups that differ in the number of teachers alone, by the name of the first and that number."""
    by_teachers: dict[str, dict[float, list[Summary]]] = {}
    for group, rows in findings.groups.items():
        tested = row_of(TEACHER, rows).cell
        together = findings.plan.trained(tested.runs[0])
        members = [findings.plan.runs[name] for name in together.teachers] or [together]
        networks = {member.student.network for member in members}
        if len(networks) == 1:
            alike = group.replace(tested.teacher, networks.pop(), 1)
            by_teachers.setdefault(alike, {})[len(members)] = rows
    return by_teachers
