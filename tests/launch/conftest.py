"""The fixtures that train small suites."""

from tests.train.conftest import bench, cohort

__all__ = ["bench", "cohort"]
