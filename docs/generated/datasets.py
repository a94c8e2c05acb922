"""The data sets, from their table in the code."""

from bench.data import DATASETS, IMAGEFOLDER, IMAGEFOLDER_SUMMARY
from generated.markdown import code, sentence, table


def datasets() -> str:
    """Return a section per data set."""
    folder = f"## {IMAGEFOLDER}\n\n{sentence(IMAGEFOLDER_SUMMARY)}\n"
    return "\n".join([*map(section, DATASETS), folder])


def section(name: str) -> str:
    """Return what a suite file's author must know about a data set."""
    data = DATASETS[name]
    of_each = f"; at least {data.min_per_class:,} of each class to train" if data.min_per_class else ""
    labels = {"image": f"{data.classes:,} classes{of_each}", "pixel": f"{data.classes} classes, one per pixel"}
    rows = [
        ["images", f"{data.train:,} to train, {data.test:,} to test, {data.size[0]} x {data.size[1]} pixels"],
        ["labels", labels.get(data.labels, "none")],
        ["augmentation", code(data.augment)],
        ["views", ", ".join(map(code, data.views)) or "none besides the images"],
        ["mean, std", f"{code(list(data.mean))}, {code(list(data.std))}"],
        ["files", data.where],
    ]
    return f"## {name}\n\n{sentence(data.summary)}\n\n{table(['', ''], rows)}"
