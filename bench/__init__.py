"""The harness: suite file in, comparison table out."""
