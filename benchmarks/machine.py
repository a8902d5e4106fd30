"""Describe the machine, its versions and its load, on which every figure depends; from Linux' own tables."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from regraft.system.backend import get_installed_versions

__all__ = ["Load", "Meter", "commit", "machine", "versions"]

ROOT = Path(__file__).resolve().parents[1]
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
PACKAGES = ("regraft", "keras", "tensorflow", "tensorflow-cpu", "openvino", "numpy", "scikit-learn", "pillow")


def machine() -> dict[str, str]:
    """Return processor, cores, memory, features and system: the same for the same machine."""
    model, flags = _read_processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "features": ", ".join(name for name in FEATURES if name in flags) or "none of those that matter here",
        "system": f"{_read_system()}, {platform.system()} {platform.release().partition('-')[0]}",
    }


def _read_processor() -> tuple[str, set[str]]:
    facts = {}
    for line in _read_lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    model = facts.get("model name", platform.processor() or platform.machine())
    return model, set(facts.get("flags", facts.get("Features", "")).split())


def _read_system() -> str:
    names = [line for line in _read_lines("/etc/os-release") if line.startswith("PRETTY_NAME=")]
    return names[0].partition("=")[2].strip('"') if names else platform.system()


def _read_lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that do the work."""
    return {"Python": platform.python_version(), **get_installed_versions(PACKAGES)}


def commit(*paths: str) -> str:
    """Return the last commit that changed these paths, with "+" if they differ from it now; or ""."""
    try:
        last = _run_git("log", "-1", "--format=%h", "--", *paths)
        return last + ("+" if _run_git("status", "--porcelain", "--", *paths) else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _run_git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


@dataclass(frozen=True)
class Load:
    """The work of other programs.

    Attributes:
        before: the load average of the minute before.
        others: processors that other programs kept busy, on average.
    """

    before: float
    others: float


class Meter:
    """Measure the load that other programs cause, from its creation to `read`."""

    def __init__(self) -> None:
        self._before = os.getloadavg()[0]
        self._start = time.monotonic(), _measure_busy(), _measure_own()

    def read(self) -> Load:
        """Return the load; the child processes must have ended."""
        start, busy, own = self._start
        seconds = time.monotonic() - start
        return Load(self._before, max(0.0, (_measure_busy() - busy - (_measure_own() - own)) / seconds))


def _measure_busy() -> float:
    """Return the seconds of work of all processors, with the host's share in a virtual machine."""
    cells = [int(cell) for cell in (_read_lines("/proc/stat") or ["cpu"])[0].split()[1:]]
    user, nice, system, _, _, irq, softirq, steal = (*cells, *[0] * 8)[:8]
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _measure_own() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
