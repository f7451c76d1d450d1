"""Ctrl-C waits for a check, and for nothing in the caller's code."""

from __future__ import annotations

import signal
import threading

import pytest

from futurefill_kernels.decoding.interrupts import Interrupts


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def test_it_waits_for_a_check():
    done = []
    with Interrupts() as interrupts:
        interrupts.check()
        ctrl_c()
        done.append("the rest of the token")
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        interrupts.check()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_none_is_lost():
    with pytest.raises(KeyboardInterrupt), Interrupts():
        ctrl_c()


def test_a_second_one_does_not_wait():
    with Interrupts() as interrupts:
        ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_an_error_goes_first():
    def fails():
        with Interrupts():
            ctrl_c()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()


def test_callers_code_is_interrupted_at_once():
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.at_once():
            ctrl_c()
        interrupts.check()


def test_other_handlers_and_threads_are_left_alone():
    heard = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with Interrupts():
            ctrl_c()
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, previous)
    found = []

    def elsewhere():
        with Interrupts() as interrupts:
            interrupts.check()
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
