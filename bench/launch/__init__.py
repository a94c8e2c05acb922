"""Decides which process trains which runs, on the devices of this machine or in SLURM jobs."""
