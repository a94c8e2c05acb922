"""Logistic probe: a linear probe of standardised features, fitted by a solver and not trained in epochs."""

from bench.spec import RunSpec
from bench.tasks.probe import LinearProbe


class Logistic(LinearProbe):
    name = "logistic"
    is_solved = True
    what_trains = "a logistic regression of the frozen embedding, standardised, its L2 penalty chosen on dev images"

    def is_published(self, run: RunSpec) -> bool:
        """Return False: the papers' probes train as networks do."""
        return False
