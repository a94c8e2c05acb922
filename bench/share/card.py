"""The model card of an exported student. Imports no torch."""

from statistics import fmean, stdev

import yaml

from bench.spec import Crossed, RunSpec, canonical_document
from bench.store import Store
from bench.store.documents import number_in
from bench.tasks import task_of

CARD = """\
---
license: other
library_name: onnx
pipeline_tag: image-classification
tags: [knowledge-distillation]
---
# {title}

{how}

| | |
|---|---|
| student | {student} |
| teacher | {teacher} |
| method | {method} |
| data | {data} |
| run | `{run}`, seed {seed} |

## Results
{results}

## Use
`student.onnx` needs no code of the project that trained it. It takes {channels} channels of {height}x{width} pixels:

```python
import onnxruntime
session = onnxruntime.InferenceSession("student.onnx")
logits = session.run(None, {{"images": images}})[0]
```

`images` is a float32 array (batch, {channels}, {height}, {width}) of normalised images, `logits` is (batch, {classes}).
Normalised means `(x - mean) / std` for each channel, with {units}:

- mean {mean}
- std {std}

`student.safetensors` has the weights under the names of the network's parameters.

## Training
```yaml
{spec}```

## Licence
The code that trained this network is under the MIT licence. Whoever shares the weights states their licence here; the
terms of the data set may restrict it.
"""
MEASURED = """\
On the test images after the last epoch, never the best one. Mean and standard deviation (n - 1) are those of the n
finished runs with the same teacher that differ from this one only in their seed, this one included.

| metric | this run | mean ± std | n |
|---|---|---|---|
{rows}"""
NOT_MEASURED = "The student learned without labels: other runs evaluate its features."


def card(store: Store, run: RunSpec) -> str:
    """Return the model card of a finished run's student, in Markdown."""
    teachers = [store.spec(name) for name in run.teachers]
    names = " + ".join(one.student.network for one in teachers if one)
    method, reuses = _method(run), run.student.reuses
    view = run.data.view
    units = "x in [0, 1]" if view is None else f"x the image's {view}, in its own units"
    return CARD.format(
        title=f"{run.student.network} on {run.data.name}" + (f", distilled from {names}" if names else ""),
        how=f"Trained on {run.data.name} with {method}."
        if run.trains
        else "Its weights were given, and evaluated here.",
        student=run.student.network + (f", with a projector and the classifier of {reuses.network}" if reuses else ""),
        teacher=names or ("none" if run.peer is None else f"{run.peer.network}, which trained together with it"),
        method=method if run.trains else "unknown",
        data=f"{run.data.name}, {run.data.classes} classes",
        run=run.id,
        seed=run.seed if run.order_seed is None else Crossed(run.seed, run.order_seed, None),
        results=_results(store, run),
        channels=run.data.channels,
        classes=run.data.classes,
        height=run.data.size[0],
        width=run.data.size[1],
        units=units,
        mean=list(run.data.mean),
        std=list(run.data.std),
        spec=yaml.safe_dump(canonical_document(run), sort_keys=False),
    )


def _method(run: RunSpec) -> str:
    """Return the terms of a run's loss, with their weights."""
    terms = [f"{term.method} (weight {term.weight:g})" for term in run.terms]
    return " + ".join([f"cross-entropy (weight {run.task_weight:g})", *terms])


def _results(store: Store, run: RunSpec) -> str:
    """Return the table of metrics, if the run has any."""
    records = {run_id: store.record(run_id) for run_id in _seeds_of(store, run)}
    rows = []
    for metric in task_of(run).metrics:
        by_run = {name: number_in(one, metric.name, store.folder(name)) for name, one in records.items() if one}
        values = [value for value in by_run.values() if value is not None]
        spread = f"{fmean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else ""
        rows.append(f"| {metric.title}, {metric.unit} | {by_run[run.id]:.2f} | {spread} | {len(values)} |")
    return MEASURED.format(rows="\n".join(rows)) if rows else NOT_MEASURED


def _seeds_of(store: Store, run: RunSpec) -> list[str]:
    """Return the ids of the runs in the store that differ from a run only in their seed, itself included."""
    specs = [store.spec(run_id) for run_id in store.run_ids()]
    seeds = {"seed": run.seed, "order_seed": run.order_seed}
    return [other.id for other in specs if other is not None and other.but(**seeds).id == run.id]
