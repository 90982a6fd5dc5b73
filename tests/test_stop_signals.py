"""First signal asks, second forces; one wish that arrives twice is one wish."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from paceline.cluster.stop_signals import StopSignals

STUBBORN = """
import sys, time
from paceline.cluster.stop_signals import StopSignals
with StopSignals(lambda: print("forced", flush=True)) as signals:
    try:
        print("up", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("asked", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_and_is_remembered(number: signal.Signals, request: pytest.FixtureRequest) -> None:
    # Under `nohup` the tests themselves run with SIGHUP ignored.
    request.addfinalizer(partial(signal.signal, number, signal.getsignal(number)))
    before = signal.default_int_handler
    signal.signal(number, before)
    forced: list[bool] = []
    with StopSignals(lambda: forced.append(True)) as signals:
        signals.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert signals.number == number
        with pytest.raises(KeyboardInterrupt):
            signals.check()
        os.kill(os.getpid(), number)  # at once again: the same wish
    assert forced == []
    assert signal.getsignal(number) is before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(lambda: None) as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_second_one_forces() -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "asked\n"
        deadline = time.monotonic() + 20
        while process.poll() is None:  # what comes within half a second counts as the first
            assert time.monotonic() < deadline
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert process.returncode == 128 + signal.SIGINT
        assert process.stdout.read() == "forced\n"
