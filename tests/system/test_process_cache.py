"""Values that are made once in each process, and left behind by a fork and a pickle."""

from __future__ import annotations

import copy
import os
import pickle
import threading
import time

import pytest

from regraft.system.process_cache import ProcessCache


def test_threads_that_ask_at_once_get_one_value() -> None:
    cache, made, received = ProcessCache(), [], []

    def make() -> object:
        time.sleep(0.05)
        made.append(object())
        return made[-1]

    threads = [threading.Thread(target=lambda: received.append(cache.get("engine", make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert received == made * 8


def test_a_value_may_need_another() -> None:
    cache = ProcessCache()
    assert cache.get("engine", lambda: cache.get("model", lambda: 1) + 1) == 2
    assert "model" in cache


def test_a_failure_is_tried_again() -> None:
    cache = ProcessCache()
    with pytest.raises(ZeroDivisionError):
        cache.get("engine", lambda: 1 // 0)
    assert cache.get("engine", lambda: 7) == 7


@pytest.mark.parametrize("copied", [lambda cache: pickle.loads(pickle.dumps(cache)), copy.deepcopy])
def test_a_copy_is_empty(copied) -> None:
    cache = ProcessCache()
    cache.get("engine", threading.Lock)  # which cannot be pickled
    assert "engine" not in copied(cache)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_starts_afresh_even_while_a_value_is_being_made() -> None:
    cache, may_end, has_begun = ProcessCache(), threading.Event(), threading.Event()
    cache.get("engine", lambda: "of the parent")

    def make_slowly() -> None:
        has_begun.set()
        may_end.wait(30)

    thread = threading.Thread(target=lambda: cache.get("slow", make_slowly))
    thread.start()
    has_begun.wait(30)
    process = os.fork()
    if process == 0:
        is_fresh = "engine" not in cache and cache.get("engine", lambda: "of the child") == "of the child"
        os._exit(0 if is_fresh else 1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    finally:
        may_end.set()
        thread.join()
    assert cache.get("engine", lambda: "of nobody") == "of the parent"
