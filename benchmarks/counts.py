"""Counts what each method adds to a student's training step: `python -m benchmarks.counts > methods/costs.csv`.

Numbers of multiplications and of parameters are the same on every machine, unlike times, which the parts `terms` and
`later` of `python -m benchmarks` measure.
"""

import csv
import sys
from collections.abc import Iterable, Iterator
from functools import partial

from bench.cost.measure import counted
from bench.suite import NONE
from bench.train.epoch import teacher_features
from bench.train.learner import MAIN
from benchmarks.__main__ import TRAIN, TimedCohort, split
from methods.catalog import Cost, own_files


def costs(names: Iterable[str]) -> Iterator[tuple[str, Cost]]:
    """Yield the cost of each method at its defaults, in its main stage, on the pair of `speed.yaml`."""
    cohort = TimedCohort(split(TRAIN), "fp32", changes=["controls=false", f"methods=[{', '.join(names)}]"])
    lanes = [cohort.lanes[cell.label] for cell in cohort.cells]
    size = lanes[0].schedule.batch_size
    batch = next(iter(cohort.data.epoch(1, MAIN, 1, size, second_view=True)))
    features = teacher_features(cohort.teachers, lanes, batch)
    plain = 0.0
    for cell, lane in zip(cohort.cells, lanes, strict=True):
        lane.begin_epoch()
        numbers = counted(lane, partial(lane.step, batch, features, 0))
        assert lane.failure is None, lane.failure
        if cell.method == NONE:  # the first cell
            plain = numbers["step_gflop"]
        else:
            more = 100 * (numbers["step_gflop"] / plain - 1)
            yield cell.method, Cost(round(more, 3), numbers["extra_parameters"])


if __name__ == "__main__":
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["method", *Cost._fields])
    writer.writerows([name, *cost] for name, cost in costs(path.stem for path in own_files()))
