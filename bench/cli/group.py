"""How a command ends: its exit status, and what is printed of an error or an interruption. Imports no torch."""

import os
import signal
import traceback
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from bench.terminal.output import warn
from bench.text import printable
from bench.types import RequestError

OK, RUN_FAILED, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130
UsageError: Any = typer.BadParameter.__base__  # click's; some versions of typer have a copy of click


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Raise `KeyboardInterrupt`; Python's own handler leaves no frame that tells Ctrl-C from what a plug-in raises."""
    raise KeyboardInterrupt


class Commands(TyperGroup):
    """The commands: each exits with the status that it returns and prints its errors without traceback."""

    def invoke(self, ctx: Any) -> NoReturn:  # noqa: ANN401
        """Run a command and exit."""
        at_ctrl_c = signal.getsignal(signal.SIGINT)
        if at_ctrl_c is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, _interrupt)
        try:
            status = super().invoke(ctx)
        except RequestError as error:
            warn(str(error))
            status = WRONG_REQUEST
        except UsageError as error:
            error.message = printable(error.message)  # it quotes the command line
            raise
        except SystemExit as error:  # no command exits so: it is a plug-in that does, perhaps with status 0
            places = traceback.extract_tb(error.__traceback__)
            at = [one for one in places if os.path.isfile(one.filename)][-1]  # `exit()` itself is in no file
            warn(f"{at.filename}:{at.lineno}: has ended the command: SystemExit: {error.code}")
            status = RUN_FAILED
        except KeyboardInterrupt:
            warn("Interrupted. The same command continues from the last checkpoints.")
            status = INTERRUPTED
        finally:
            signal.signal(signal.SIGINT, at_ctrl_c)
        raise typer.Exit(status)
