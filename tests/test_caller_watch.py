"""Generations of a caller that died are ended; all others go on."""

from __future__ import annotations

import threading

from paceline.cluster.caller_watch import CallerWatch


def test_only_what_a_dead_caller_still_waits_for_is_ended() -> None:
    dead: set[str] = set()
    asked: list[str] = []
    aborted: list[str] = []
    looked = threading.Semaphore(0)

    def gone(caller: str) -> bool:
        asked.append(caller)
        looked.release()
        return caller in dead

    watch = CallerWatch(gone, aborted.append, every_s=0.01)
    try:
        for caller, request in (("a", "1"), ("a", "2"), ("b", "3"), ("", "4")):
            watch.begun(caller, request)
        watch.ended("a", "2")
        watch.ended("", "4")
        dead.update(("a", ""))
        for _ in range(20):
            assert looked.acquire(timeout=5)
        assert aborted == ["1"]
        assert set(asked) == {"a", "b"}, "nobody who has no name is looked for"
        watch.ended("a", "1")  # its stream is closed afterwards
        watch.ended("b", "3")
    finally:
        watch.close()


def test_one_that_cannot_be_looked_after_does_not_end_the_watch() -> None:
    aborted = threading.Event()

    def gone(caller: str) -> bool:
        if caller == "broken":
            raise RuntimeError("no answer")
        return True

    watch = CallerWatch(gone, lambda request: aborted.set(), every_s=0.01)
    try:
        watch.begun("broken", "1")
        watch.begun("dead", "2")
        assert aborted.wait(5)
    finally:
        watch.close()
