"""torchvision's classifiers and their stages by resolution, from `torchvision_stages.json`. Imports no torch.

`python -m bench.models.torchvision_stages` writes that file again, for a version of torchvision with more networks. The
stages are part of a run's identity. They are read from a file, so that a plan needs no torch, and a changed rule
changes no run of a suite.
"""

import json
from functools import cache
from pathlib import Path

from bench.types import RequestError, suggest

FILE = Path(__file__).with_suffix(".json")
TORCHVISION = "torchvision."  # begins the names of its networks


@cache
def torchvision_stages() -> dict[str, tuple[str, ...]]:
    """Return the stages of torchvision's classifiers by name, as `stages_by_resolution` finds them, or ()."""
    return {name: tuple(stages) for name, stages in json.loads(FILE.read_text(encoding="utf-8")).items()}


def stages_of(name: str) -> tuple[str, ...]:
    """Return the paths of the modules that are a network's stages, stem first, where a suite names none.

    Args:
        name: `torchvision.NAME`.

    Raises:
        RequestError: there is no such network, or its stages are not found by resolution.
    """
    known = torchvision_stages()
    own = name.removeprefix(TORCHVISION)
    if own not in known:
        raise RequestError(f"unknown network {name!r}. {suggest(name, [TORCHVISION + one for one in known])}")
    if not known[own]:
        raise RequestError(
            f"{name} needs 'stages', the paths of the modules whose outputs are its stages: it takes images of one "
            "size only, so they are not found by resolution"
        )
    return known[own]


def write_stages(file: Path = FILE) -> None:
    """Write the stages of all of torchvision's classifiers to a file."""
    import torch
    from torchvision import models

    from bench.models.resolution import stages_by_resolution
    from bench.models.torchvision_network import torchvision_network

    lines = []
    for name in sorted(models.list_models(module=models)):
        with torch.device("meta"):
            network = torchvision_network(name, num_classes=2, in_channels=3)
        try:
            stages = stages_by_resolution(network)
        except RequestError:
            stages = ()
        lines.append(f"  {json.dumps(name)}: {json.dumps(stages)}")
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write_stages()
