"""Generates the JSON schema of suite files, with which editors complete and check them.

Write it with `python -m bench.suite.json_schema > suites/suite.schema.json`.
"""

import ast
import inspect
import itertools
import json
import sys
import textwrap
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from bench.data import DATASETS, IMAGEFOLDER
from bench.models import NETWORKS
from bench.suite.entries import NONE
from bench.suite.schema import TRANSFER, Suite, TransferSuite
from methods import own_files


class DescribedFields(GenerateJsonSchema):
    """Adds docstrings of fields as descriptions; pydantic's `use_attribute_docstrings` would slow down every import."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Return the schema of a model, each property with its description."""
        document = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        for base in reversed(model.__mro__):
            if issubclass(base, BaseModel) and base is not BaseModel:
                for name, text in attribute_docstrings(base).items():
                    key = model.model_fields[name].alias or name
                    document["properties"][key]["description"] = " ".join(text.split())
        return document


def attribute_docstrings(model: type) -> dict[str, str]:
    """Return the docstring below each attribute of a class, by the attribute's name."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    docstrings = {}
    for field, below in itertools.pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docstrings[ast.unparse(field.target)] = str(below.value.value)
    return docstrings


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a suite file; names of networks and methods are examples, since plugins add others."""
    models = TypeAdapter(Suite | TransferSuite).json_schema(schema_generator=DescribedFields)["$defs"]
    schema = {  # with `anyOf`, an editor could only report that a file matches neither
        "$defs": models,
        "if": {"properties": {"task": {"const": TRANSFER}}, "required": ["task"]},
        "then": {"$ref": "#/$defs/TransferSuite"},
        "else": {"$ref": "#/$defs/Suite"},
    }
    models["Slurm"] |= {"patternProperties": {"^slurm_": True}, "additionalProperties": False}
    networks = {"examples": sorted(NETWORKS)}
    methods = {"examples": [*sorted(path.stem for path in own_files()), NONE]}
    named = [(model, "network", networks) for model in ("NetworkChoice", "TeacherChoice", "TeacherCopies")]
    named += [(model, "method", methods) for model in ("TermEntry", "MethodEntry")]
    named += [("DataEntry", "name", {"enum": [*sorted(DATASETS), IMAGEFOLDER]})]
    for model, key, known in named:
        models[model]["properties"][key] |= known
        # a before-validator, which pydantic's schema does not show, also accepts a bare name
        models[model] = {"anyOf": [{"type": "string"} | known, models[model]]}
    return schema


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n")
