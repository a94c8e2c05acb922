"""The networks, from their table in the code and a forward pass of each."""

from bench.models import NETWORKS, build, shapes
from bench.models.quick import without_content
from generated.markdown import code, table

SIZE = 32  # pixels: height and width of the images
CLASSES = 100


def networks() -> str:
    """Return a table of all networks, and the shapes of their features."""
    return table(["network", "description", "stages, stem first (channels x height x width)", "embedding"], rows())


def rows() -> list[list[str]]:
    """Return the cells of the table."""
    lines = []
    for name, entry in NETWORKS.items():
        with without_content():
            shape = shapes(build(name, num_classes=CLASSES), name, 3, SIZE, SIZE)
        stages = ", ".join(f"{channels}x{height}x{width}" for channels, height, width in shape.stages)
        lines.append([code(name), entry.summary, stages, str(shape.embedding)])
    return lines
