"""The keys of a suite file, from the schema that editors use."""

import json
from functools import cache
from typing import Any

from bench.suite.json_schema import json_schema
from generated.markdown import code, table

SECTIONS = {  # of docs/reference/suite-file.md, by the models of the schema
    "PublishedTable": "published",
    "Slurm": "slurm",
    "DataEntry": "data",
    "PairEntry": "pairs",
    "NetworkChoice": "networks",
    "TeacherChoice": "teachers",
    "TeacherCopies": "teachers",
    "MethodEntry": "methods",
    "PairSettings": "settings-of-a-pair",
    "TermsEntry": "several-terms",
    "TermEntry": "several-terms",
    "CrossedSeeds": "seeds",
    "Schedule": "training",
    "TeacherTraining": "training",
    "NetworkRecipe": "training",
    "Tuning": "tuning",
    "Range": "tuning",
    "EvaluationEntry": "evaluations",
    "TransferSource": "from",
}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
NAMES = {"string": "text", "boolean": "true or false"}


@cache
def models() -> dict[str, Any]:
    """Return the models of the schema by name."""
    named = json_schema()["$defs"]
    return {name: model["anyOf"][1] if "anyOf" in model else model for name, model in named.items()}


def keys(model: str) -> str:
    """Return a table of the keys of a model of the schema: types, ranges, defaults and meanings."""
    schema = models()[model]
    rows = []
    for key, one in schema["properties"].items():
        default = "required" if key in schema.get("required", ()) else default_of(one)
        rows.append([code(key), type_of(one), default, one["description"]])
    return table(["key", "type", "default", "meaning"], rows)


def type_of(schema: dict[str, Any]) -> str:
    """Return the type of a value, with its range."""
    for several in ("anyOf", "oneOf"):
        if several in schema:
            types = [type_of(one) for one in schema[several] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(types))
    if "$ref" in schema:
        section = SECTIONS[schema["$ref"].rpartition("/")[2]]
        return f"[{section.replace('-', ' ')}](#{section})"
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return ", ".join(map(code, values))
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: {type_of(schema['prefixItems'][0])}"
    if schema["type"] == "array":
        return f"list of: {type_of(schema['items'])}"
    if schema["type"] == "object":
        (values,) = (
            schema["patternProperties"].values() if "patternProperties" in schema else [schema["additionalProperties"]]
        )
        return f"by name: {type_of(values)}"
    bounds = [f"{sign}\u00a0{schema[name]:,}" for name, sign in BOUNDS.items() if name in schema]
    return " ".join([NAMES.get(schema["type"], schema["type"]), ", ".join(bounds)]).strip()


def default_of(schema: dict[str, Any]) -> str:
    """Return the default of a key; nothing where the key is simply absent, or has keys of its own."""
    default = schema.get("default")
    return "" if default is None or isinstance(default, dict) or default == [] else code(json.dumps(default).strip('"'))
