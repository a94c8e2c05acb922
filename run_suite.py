"""Run a suite: `python run_suite.py suites/quickstart.yaml`; `--help` lists the rest."""

import os
from _signal import SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]


def leave(*_: object) -> None:
    """End the process at once, with the exit status of an interruption."""
    os._exit(130)


if __name__ == "__main__":
    # Until a command begins there is nothing to tidy up, and an exception may not get out of half an import. Importing
    # `signal` itself takes a while; the module behind it is built in.
    if getsignal(SIGINT) is default_int_handler:  # else Ctrl-C is ignored, as after `nohup`
        signal(SIGINT, leave)
    from bench.cli import main

    main()
