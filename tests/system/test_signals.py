"""Ctrl-C reaches Python after OpenVINO has been used: its signal stack is too small for a handler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from helpers.backends import make_light_environment
from helpers.reporters import Recorder

from regraft.system.signals import get_exit_code, stop_after_step


def test_the_first_signal_lets_the_step_finish_and_is_reported() -> None:
    seen = Recorder()
    with stop_after_step(seen) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    (line,) = seen.lines
    assert line.startswith("Stopping after this step")
    assert get_exit_code() == 130


INTERRUPTED = """
import ctypes, os, signal, sys
from regraft.features.engine import make_engine
import keras, numpy as np
from pathlib import Path

image = keras.Input((8, 8, 3))
network = keras.Model(image, {"out": keras.layers.Conv2D(2, 3)(image)})
engine = make_engine(network, Path(sys.argv[1]))
assert engine.name.startswith("openvino"), engine.name
list(engine.run([np.zeros((1, 8, 8, 3), np.uint8)]))

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

stack = Stack()
ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
assert not stack.start, "a library has left its signal stack"
signal.signal(signal.SIGINT, lambda *_: print("handled", flush=True))
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are checked on Linux")
def test_a_signal_is_handled_after_openvino_has_computed(tmp_path) -> None:
    command, environment = [sys.executable, "-c", INTERRUPTED, str(tmp_path)], make_light_environment()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "handled"
