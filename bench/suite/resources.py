"""The resources of a job on a cluster, as a suite file states them. Imports no torch."""

from typing import Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from bench.types import suggest


class Slurm(BaseModel):
    """The resources of a job on a cluster, for `--slurm`. Not part of a run's identity.

    Any other option of submitit is given under its name with `slurm_` before it, as `slurm_exclude: node7`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    partition: str | None = None
    """The partition, sbatch's option of that name."""
    qos: str | None = None
    """Quality of service, sbatch's option of that name."""
    account: str | None = None
    """The account that pays, sbatch's option of that name."""
    constraint: str | None = None
    """Features that the node must have, sbatch's option of that name."""
    gpus_per_node: NonNegativeInt | None = None
    """GPUs of a job; a cohort trains on one, or on as many as its runs have processes."""
    cpus_per_task: PositiveInt | None = None
    """CPUs of a job, for its threads and workers."""
    mem_gb: PositiveFloat | None = None
    """Memory of a job in GB."""
    timeout_min: PositiveInt = 60
    """Time limit of a job in minutes; a job that reaches it is queued again and goes on from its last checkpoint."""
    checkpoint_minutes: PositiveFloat = 10.0
    """Minutes between two checkpoints within a long epoch: the most work that is lost when a run is interrupted."""
    max_parallel: PositiveInt | None = None
    """Most tasks of one array that run at the same time."""
    setup: tuple[str, ...] = ()
    """Lines of shell that run before the training, such as `module load cuda`."""

    @model_validator(mode="after")
    def _others_are_options_of_submitit(self) -> Self:
        for name in self.model_extra or ():
            if not name.startswith("slurm_"):
                known = suggest(name, type(self).model_fields)
                raise ValueError(f"unknown key {name!r}. {known}, or slurm_NAME for submitit's own")
        return self
