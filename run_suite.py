"""Run a suite: `python run_suite.py suites/quickstart.yaml`; `--help` lists the rest."""

from bench.__main__ import main

if __name__ == "__main__":
    main()
