"""Imports that are skipped, and imports in the background."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from regraft.system import imports


def run_code(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]  # fmt: skip


def test_openvino_is_imported_without_the_converter_that_reports_it() -> None:
    """The converter can still be imported explicitly."""
    code = (
        "import sys, os\nos.environ['CI'] = '1'\n"
        "from regraft.system.imports import import_openvino\n"
        "openvino = import_openvino()\n"
        "loaded = [name for name in ('openvino_telemetry', 'openvino.tools.ovc') if name in sys.modules]\n"
        "import importlib.util\n"
        "print(loaded, openvino.Core().available_devices[0],"
        " importlib.util.find_spec('openvino.tools.ovc') is not None)"
    )
    assert run_code(code) == "[] CPU True"


@pytest.mark.slow
def test_a_program_imports_keras_without_optional_packages() -> None:
    code = (
        "import sys\nfrom regraft.system.imports import skip_optional_imports\n"
        "skip_optional_imports()\nimport keras\n"
        "print([name for name in ('pandas', 'sklearn', 'jax', 'pyarrow') if name in sys.modules])\n"
        "import sklearn.base, pandas\n"
        "print([name for name in ('pandas', 'sklearn') if name not in sys.modules], keras.backend.backend())"
    )
    assert run_code(code) == "[] tensorflow"


@pytest.fixture
def began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """An event that importing the module `heavy_module` sets."""
    (tmp_path / "heavy_module.py").write_text("from signals_of_the_test import event\nevent.set()\n")
    monkeypatch.syspath_prepend(tmp_path)
    event = threading.Event()
    monkeypatch.setitem(sys.modules, "signals_of_the_test", SimpleNamespace(event=event))
    yield event
    sys.modules.pop("heavy_module", None)


def test_importing_begins_in_the_background(began: threading.Event) -> None:
    with imports.import_in_background("heavy_module"):
        assert began.wait(10)


def test_the_collector_runs_again_after_an_import_but_not_on_its_objects(tmp_path: Path) -> None:
    (tmp_path / "keras.py").write_text("import gc\nenabled = gc.isenabled()\n")
    code = (
        f"import gc, sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "from regraft.system import imports\nimports._import_all('keras')\nimport keras\n"
        "print(keras.enabled, gc.isenabled(), gc.get_freeze_count() > 1000)"
    )
    assert run_code(code) == "False True True"


def test_a_program_ends_without_a_garbage_collection() -> None:
    code = (
        "import atexit, gc\nfrom regraft.system.imports import skip_final_gc\n"
        "atexit.register(lambda: print(len(gc.get_objects()) < 100 < gc.get_freeze_count()))\nskip_final_gc()"
    )
    assert run_code(code) == "True"


@pytest.mark.slow
def test_an_immediate_mistake_imports_nothing(began: threading.Event) -> None:
    with pytest.raises(ValueError, match="mistake"), imports.import_in_background("heavy_module", delay=0.5):
        raise ValueError("mistake")
    time.sleep(0.7)
    assert not began.is_set()
