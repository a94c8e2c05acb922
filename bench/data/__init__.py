"""Data sets: what a suite file says of them, their images, batches, augmentation and views. Imports no torch."""

from bench.data.choice import IMAGEFOLDER, IMAGEFOLDER_SUMMARY, DataChoice, PathText, resolve, unlabelled, views_of
from bench.data.named import DATASETS

__all__ = [
    "DATASETS",
    "IMAGEFOLDER",
    "IMAGEFOLDER_SUMMARY",
    "DataChoice",
    "PathText",
    "resolve",
    "unlabelled",
    "views_of",
]
