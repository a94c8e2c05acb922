"""Which process trains which runs: this machine's devices, or SLURM's jobs."""
