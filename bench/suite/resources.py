"""The `slurm` key of a suite file: resources of a job on a cluster. Imports no torch."""

from typing import Self

from pydantic import BaseModel, ConfigDict, PositiveFloat, model_validator

from bench.schedule import Count, CountOrZero
from bench.types import suggest


class Slurm(BaseModel):
    """The resources of a job on a cluster, for `--slurm`. Not part of a run's identity.

    Any other option of submitit takes the prefix `slurm_`, as in `slurm_exclude: node7`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    partition: str | None = None
    """Partition (sbatch `--partition`)."""
    qos: str | None = None
    """Quality of service (sbatch `--qos`)."""
    account: str | None = None
    """Account that is charged (sbatch `--account`)."""
    constraint: str | None = None
    """Features that the node must have (sbatch `--constraint`)."""
    gpus_per_node: CountOrZero | None = None
    """GPUs per job; a cohort trains on one GPU per process of its runs."""
    cpus_per_task: Count | None = None
    """CPUs per job, for its threads and workers."""
    mem_gb: PositiveFloat | None = None
    """Memory per job in GB."""
    timeout_min: Count = 60
    """Time limit of a job in minutes; a job that reaches it is queued again and resumes from its last checkpoint."""
    checkpoint_minutes: PositiveFloat = 10.0
    """Most minutes of work that an interruption can lose within a long epoch. Between epochs, it is half a minute, or
    this value if it is smaller.
    """
    max_parallel: Count | None = None
    """Largest number of tasks of one array that run at the same time."""
    setup: tuple[str, ...] = ()
    """Shell commands that run before training, such as `module load cuda`."""

    @model_validator(mode="after")
    def _others_are_options_of_submitit(self) -> Self:
        for name in self.model_extra or ():
            if not name.startswith("slurm_"):
                known = suggest(name, type(self).model_fields)
                raise ValueError(f"unknown key {name!r}. {known}, or slurm_NAME for an option of submitit")
        return self
