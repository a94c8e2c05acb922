"""Which code a run depends on: that of its methods and of users' networks, by name. Imports no torch."""

from collections.abc import Iterable, Mapping

from bench.models.own import file_of
from bench.spec import NETWORK, RunSpec
from methods import Code, Method, code_of


def used_code(runs: Iterable[RunSpec], methods: Mapping[str, Method]) -> dict[str, Code]:
    """Return the code of the methods and users' networks of runs, by the names that `code_of_run` looks up."""
    runs = list(runs)
    codes = {name: methods[name].code for name in sorted({term.method for run in runs for term in run.terms})}
    for name in sorted({name for run in runs for name in run.network_names}):
        if file := file_of(name):
            codes[_key(name)] = code_of(*file)
    return codes


def code_of_run(run: RunSpec, code: Mapping[str, Code]) -> dict[str, Code]:
    """Return the code of a run's methods and networks, of that which `used_code` has found, as records name it."""
    names = [*(term.method for term in run.terms), *map(_key, run.network_names)]
    return {name: code[name] for name in names if name in code}


def _key(network: str) -> str:
    return f"{NETWORK}{network}"  # a method may have the same name
