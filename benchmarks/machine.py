"""The machine, its versions and its load, without which a figure is worth nothing; from Linux' own tables."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from regraft.system.backend import installed

__all__ = ["Load", "Meter", "commit", "machine", "versions"]

ROOT = Path(__file__).resolve().parents[1]
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
PACKAGES = ("regraft", "keras", "tensorflow", "tensorflow-cpu", "openvino", "numpy", "scikit-learn", "pillow")


def machine() -> dict[str, str]:
    """Processor, cores, memory, features, system: the same text for the same machine."""
    model, flags = _processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "features": ", ".join(each for each in FEATURES if each in flags) or "none of those that count here",
        "system": f"{_system()}, {platform.system()} {platform.release().partition('-')[0]}",
    }


def _processor() -> tuple[str, set[str]]:
    facts = {}
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    model = facts.get("model name", platform.processor() or platform.machine())
    return model, set(facts.get("flags", facts.get("Features", "")).split())


def _system() -> str:
    names = [line for line in _lines("/etc/os-release") if line.startswith("PRETTY_NAME=")]
    return names[0].partition("=")[2].strip('"') if names else platform.system()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def versions() -> dict[str, str]:
    """Python's version and those of the packages that do the work."""
    return {"Python": platform.python_version(), **installed(PACKAGES)}


def commit(*paths: str) -> str:
    """The last commit that changed any of these paths; "+" behind it where they differ from it; or ""."""
    try:
        last = _git("log", "-1", "--format=%h", "--", *paths)
        return last + ("+" if _git("status", "--porcelain", "--", *paths) else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


@dataclass(frozen=True)
class Load:
    """What the machine did besides.

    Attributes:
        before: the load average over the minute before.
        others: processors that other programs kept busy meanwhile, on average.
    """

    before: float
    others: float


class Meter:
    """From its making to `read`: the load of the machine that is not this process and its children."""

    def __init__(self) -> None:
        self._before = os.getloadavg()[0]
        self._begun = time.monotonic(), _busy(), _own()

    def read(self) -> Load:
        """Once the children have ended."""
        begun, busy, own = self._begun
        seconds = time.monotonic() - begun
        return Load(self._before, max(0.0, (_busy() - busy - (_own() - own)) / seconds))


def _busy() -> float:
    """Seconds that all processors have been at work, the host's share in a virtual machine included."""
    cells = [int(cell) for cell in (_lines("/proc/stat") or ["cpu"])[0].split()[1:]]
    user, nice, system, _, _, irq, softirq, steal = (*cells, *[0] * 8)[:8]
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)
