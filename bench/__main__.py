"""The program: `distill-bench`, `python -m bench` and `run_suite.py` all start here."""

import os
from _signal import SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]


def leave(*_: object) -> None:
    """End the process at once, with the exit status of an interruption."""
    os._exit(130)


def main() -> None:
    """Run the command line."""
    # Until a command begins there is nothing to tidy up, and an exception may not get out of half an import. Importing
    # `signal` itself takes a while; the module behind it is built in.
    if getsignal(SIGINT) is default_int_handler:  # else Ctrl-C is ignored, as after `nohup`
        signal(SIGINT, leave)
    from bench.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
