"""Whatever ends a process, the same command goes on, and the result has the bits of an undisturbed one."""

import os
import pty
import signal
import time

import pytest

from tests.faults import child

SHORT, LONG = 3, 200


def kills(number: int) -> list:
    return [number, pytest.param(LONG, marks=pytest.mark.slow)]


@pytest.mark.parametrize("number", kills(SHORT))
def test_a_suite_that_is_killed_at_random_moments_ends_as_an_undisturbed_one(number, disturbed, undisturbed, chance):
    """Killed several times in a row, until it has come to its end; then the next one, until there were enough."""
    result, duration_s = undisturbed
    killed = ended = 0
    while killed < number:
        suite = disturbed(str(ended))
        while killed < number:
            process = suite.start()
            process.join(chance.uniform(0, 0.7 * duration_s))
            if process.exitcode is not None:
                assert process.exitcode == 0, suite.said
                break
            process.kill()
            process.join()
            killed += 1
        assert suite.ends() == 0, suite.said
        assert suite.result() == result
        ended += 1
    print(f"killed {killed} times, {ended} suites")  # noqa: T201


@pytest.mark.parametrize("number", kills(SHORT))
def test_a_suite_that_is_killed_while_it_writes_ends_as_an_undisturbed_one(number, disturbed, undisturbed, chance):
    """Killed at one of the changes that it makes to its folder: checkpoints, epochs, records, tables, claims."""
    killed = ended = 0
    while killed < number:
        suite = disturbed(str(ended))
        while killed < number:
            status = suite.ends(suite.start("killed", chance.randint(1, 60)))
            if status == 0:
                break
            assert status == -signal.SIGKILL, suite.said
            killed += 1
        assert suite.ends() == 0, suite.said
        assert suite.result() == undisturbed[0]
        ended += 1
    print(f"killed {killed} times, {ended} suites")  # noqa: T201


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)),
    ],
    ids=lambda n: n.name,
)
def test_a_suite_that_gets_a_signal_goes_on_at_the_next_start(number, disturbed, undisturbed):
    result, duration_s = undisturbed
    suite = disturbed()
    process = suite.start()
    process.join(duration_s / 3)
    os.kill(process.pid, number)
    assert suite.ends(process) != 0
    assert suite.ends() == 0, suite.said
    assert suite.result() == result


def test_a_suite_whose_terminal_closes_goes_on_at_the_next_start(disturbed, undisturbed):
    result, duration_s = undisturbed
    suite = disturbed()
    ours, theirs = pty.openpty()
    process = suite.start(target=child.on_terminal, terminal=os.ttyname(theirs))
    os.close(theirs)
    end = time.monotonic() + duration_s / 2
    os.set_blocking(ours, False)
    while time.monotonic() < end:
        try:
            os.read(ours, 10_000)
        except OSError:
            time.sleep(0.01)
    os.close(ours)
    suite.ends(process)
    assert suite.ends() == 0, suite.said
    assert suite.result() == result


@pytest.mark.parametrize("number", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_on_one_store_end_as_one(number, disturbed, undisturbed):
    suite = disturbed()
    processes = [suite.start() for _ in range(number)]
    assert [suite.ends(process, 300) for process in processes] == [0] * number, suite.said
    assert suite.result() == undisturbed[0]
    said = [line for line in suite.said.splitlines() if ": training " in line]
    assert len(said) == len(set(said))
