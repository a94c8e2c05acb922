"""Resolves the data of a suite file to a `DataSpec`, without reading images. Imports no torch."""

import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.data import resolve
from bench.plan.model import Sources
from bench.spec import DataSpec, canonical
from bench.suite import DataEntry
from bench.types import RequestError


def resolved(choice: DataEntry, path: Path, key: str, sources: Sources) -> DataSpec:
    """Return the specification of the data at a key of a suite file; paths of folders are relative to the file."""
    if choice.path is None:
        return resolve(choice)

    def look() -> dict[str, Any]:
        folder = path.parent.resolve() / os.path.expanduser(str(choice.path))
        try:
            spec = resolve(choice.model_copy(update={"path": str(folder)}))
        except RequestError as error:
            raise RequestError(f"{path}: {key}: {error}") from None
        return {**spec.model_dump(mode="json"), "path": str(spec.path)}

    document = sources.take(f"data {canonical(choice)}", look)
    try:
        return DataSpec.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise RequestError(f"{path}: {key}: its entry in sources.json is not valid: {error}") from None
