"""What is not imported, by whom, and when importing begins."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from regraft.system import imports


def printed(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]  # fmt: skip


def test_openvino_comes_without_what_reports_its_use() -> None:
    """And whoever wants its converter later still finds it."""
    code = (
        "import sys, os\nos.environ['CI'] = '1'\n"
        "from regraft.system.imports import import_openvino\n"
        "openvino = import_openvino()\n"
        "loaded = [name for name in ('openvino_telemetry', 'openvino.tools.ovc') if name in sys.modules]\n"
        "import importlib.util\n"
        "print(loaded, openvino.Core().available_devices[0],"
        " importlib.util.find_spec('openvino.tools.ovc') is not None)"
    )
    assert printed(code) == "[] CPU True"


@pytest.mark.slow
def test_a_program_imports_keras_without_what_only_others_use() -> None:
    code = (
        "import sys\nfrom regraft.system.imports import leave_out_needless\n"
        "leave_out_needless()\nimport keras\n"
        "print([name for name in ('pandas', 'sklearn', 'jax', 'pyarrow') if name in sys.modules])\n"
        "import sklearn.base, pandas\n"
        "print([name for name in ('pandas', 'sklearn') if name not in sys.modules], keras.backend.backend())"
    )
    assert printed(code) == "[] tensorflow"


def test_importing_begins_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()
    monkeypatch.setattr(imports, "_import_all", lambda *_: began.set())
    with imports.begin("keras"):
        assert began.wait(10)


def test_garbage_is_looked_for_again_but_not_among_what_was_imported(tmp_path: Path) -> None:
    (tmp_path / "keras.py").write_text("import gc\nlooked = gc.isenabled()\n")
    code = (
        f"import gc, sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "from regraft.system import imports\nimports._import_all('keras')\nimport keras\n"
        "print(keras.looked, gc.isenabled(), gc.get_freeze_count() > 1000)"
    )
    assert printed(code) == "False True True"


def test_a_program_ends_without_looking_for_garbage() -> None:
    code = (
        "import atexit, gc\nfrom regraft.system.imports import end_at_once\n"
        "atexit.register(lambda: print(len(gc.get_objects()) < 100 < gc.get_freeze_count()))\nend_at_once()"
    )
    assert printed(code) == "True"


@pytest.mark.slow
def test_a_mistake_found_at_once_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()
    monkeypatch.setattr(imports, "_import_all", lambda *_: began.set())
    monkeypatch.setattr(imports, "SOON", 0.5)
    with pytest.raises(ValueError, match="mistake"), imports.begin("keras"):
        raise ValueError("mistake")
    time.sleep(0.7)
    assert not began.is_set()
