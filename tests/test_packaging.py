"""What users install: both distributions work, and predicting needs no TensorFlow and few megabytes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import small_network, write_photos

ROOT = Path(__file__).resolve().parents[1]
MAX_MEGABYTES = 450  # of packages in the container

pytestmark = pytest.mark.soak


def run(*command: object, folder: Path, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KERAS_BACKEND")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder, capture_output=True, text=True, check=False, env={**clean, **environment},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    pytest.importorskip("build")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, folder=out)
    return out


def make_environment(folder: Path, *packages: object) -> Path:
    """Return the folder of programs of a new environment with these packages."""
    run(sys.executable, "-m", "venv", folder, folder=folder.parent)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    run(programs / "python", "-m", "pip", "install", "-q", "--no-compile", *packages, folder=folder)
    return programs


def measure_packages(programs: Path) -> dict[str, int]:
    """Return the bytes of each entry of site-packages, without the installer."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(programs / "python", "-c", code, folder=programs).strip())
    return {
        path.name: sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
        for path in site.iterdir()
        if not re.match("pip|setuptools", path.name)
    }


@pytest.fixture(scope="module")
def light(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of deploy/Dockerfile."""
    (extras,) = re.findall(r'"\.\[(.+?)\]"', (ROOT / "deploy" / "Dockerfile").read_text("utf-8"))
    (wheel,) = distributions.glob("*.whl")
    folder = tmp_path_factory.mktemp("light") / "venv"
    programs = make_environment(folder, f"{wheel}[{extras}]")
    run("sh", ROOT / "deploy" / "remove_unused.sh", folder, folder=folder)
    return programs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a small network without need for weights."""
    folder = tmp_path_factory.mktemp("data")
    write_photos(folder / "photos")
    small_network().save(folder / "small.keras")
    return folder


def train_and_predict(programs: Path, folder: Path, out: str) -> None:
    store = {"REGRAFT_HOME": str(folder / f"store-{out}")}
    regraft = programs / "regraft"
    options = ["--backbone", "small.keras", "--unfreeze", "none"]
    run(regraft, "train", "photos", "-o", out, *options, folder=folder, **store)
    answers = run(regraft, "predict", out, "photos/red/000.png", "--json", folder=folder, **store)
    assert json.loads(answers)["label"] == "red"


def test_wheel_and_source_hold_what_they_should(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("report/model_card.md.j2", "report/report.css", "cli/program.py"):
        assert f"regraft/{name}" in names
    assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]


def test_packages_to_predict_are_small_and_without_tensorflow(light: Path, data: Path) -> None:
    sizes = measure_packages(light)
    assert not {name for name in sizes if re.match("tensorflow|jax|torch|pandas", name)}
    megabytes = sum(sizes.values()) / 1e6
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:12]
    print(f"{megabytes:.0f} MB:", ", ".join(f"{name} {size / 1e6:.0f}" for name, size in largest))
    assert megabytes < MAX_MEGABYTES
    train_and_predict(light, data, "light")


def test_the_source_distribution_installs_and_predicts(
    distributions: Path, data: Path, tmp_path: Path
) -> None:
    (source,) = distributions.glob("*.tar.gz")
    programs = make_environment(tmp_path / "venv", f"{source}[openvino]")
    assert run(programs / "regraft", "--version", folder=tmp_path).startswith("regraft ")
    train_and_predict(programs, data, "source")
