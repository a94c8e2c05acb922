"""Plots of the results frame. Imports no torch."""
