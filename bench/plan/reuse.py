"""Plans SimKD's students, whose networks end in their teacher's classifier. Imports no torch."""

from collections.abc import Mapping

from bench.spec import NetworkSpec, RunSpec
from methods import Method


def reusing(run: RunSpec, teacher: NetworkSpec, methods: Mapping[str, Method]) -> RunSpec:
    """Return a run whose student predicts with the classifier of its teacher, if one of its methods asks for that."""
    factors = [term.parameters.get("factor", 1) for term in run.terms if methods[term.method].reuses_classifier]
    if not factors:
        return run
    return run.but(student=run.student.model_copy(update={"reuses": teacher, "factor": factors[0]}))
