"""The trainer: cohorts of runs in lockstep."""
