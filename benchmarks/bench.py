"""Run all benchmarks one after the other, and make a page of their results; `make bench` runs this.

Each benchmark is a program of its own in this folder. Its result is kept in benchmarks/results with date,
commit, machine and load, and stays valid until the sources, the machine or the versions change, so the page
may be completed over several sittings. --again repeats all measurements, --only runs some benchmarks. --quick
shows in minutes that all of them work: on every eighth image, in few rounds, with small numbers. Its figures
mean little; the page shows them, marked, if there are no others.

usage: bench.py [--only NAME ...] [--rounds N] [--quick] [--again] [--list] [--page]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import page
import printed
from machine import Meter, commit, machine, versions
from rows import IMAGES, Sheet

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SHARED_SOURCES = ("benchmarks/processes.py", "benchmarks/guide_recipe.py", "benchmarks/engineer_recipe.py")
FEW = "FEW"  # stands for the folder of the images of the quick form


@dataclass(frozen=True)
class Benchmark:
    """A program and its options.

    Attributes:
        quick: its options in the quick form.
        minutes: the time that it takes in full on two idle cores.
        parse: makes a sheet of its output, if it does not write one itself.
    """

    name: str
    script: str
    options: str
    quick: str
    minutes: int
    parse: Callable[[str], Sheet] | None = None


BENCHMARKS = (
    Benchmark("guide", "against_the_guide.py", "--rounds 3", f"--rounds 1 --epochs 2 --data {FEW}", 14),
    Benchmark(
        "guide-resnet50",
        "against_the_guide.py",
        "--backbone resnet50 --epochs 2 --rounds 3",
        f"--backbone resnet50 --epochs 2 --rounds 1 --data {FEW}",
        11,
    ),
    Benchmark("decoding", "decoding.py", "--rounds 5", f"--rounds 1 --data {FEW}", 1),
    Benchmark("engineer", "against_an_engineer.py", "--rounds 3", f"--rounds 1 --data {FEW}", 4),
    Benchmark("extraction", "extraction.py", "--rounds 5", f"--rounds 1 --data {FEW}", 8),
    Benchmark("startup", "startup.py", "--rounds 7", f"--rounds 1 --data {FEW}", 4, printed.parse_startup),
    Benchmark(
        "stage",
        "finetune.py",
        "--only stage --rounds 3",
        f"--only stage --images 32 --epochs 1 --rounds 1 --data {FEW}",
        6,
        printed.parse_finetune,
    ),
    Benchmark(
        "all",
        "finetune.py",
        "--only all --rounds 3",
        f"--only all --images 16 --epochs 1 --rounds 1 --data {FEW}",
        12,
        printed.parse_finetune,
    ),
    Benchmark(
        "mixed-bfloat16",
        "finetune.py",
        "--only bf16 --images 128 --rounds 1",
        f"--only bf16 --images 16 --epochs 1 --rounds 1 --data {FEW}",
        10,
        printed.parse_finetune,
    ),
    Benchmark(
        "search",
        "search.py",
        "--image-size 96",
        f"--each 3 --epochs 2 --image-size 96 --plans stage:block_16 --data {FEW}",
        20,
    ),
    Benchmark("taps", "taps.py", "", f"--rounds 1 --photos {FEW}/train", 6, printed.parse_taps),
    Benchmark("precision", "precision.py", "--rounds 3", f"--seeds 1 --rounds 1 --data {FEW}", 6),
    Benchmark("familiarity", "familiarity.py", "", f"--pairs 3 --data {FEW}", 4),
    Benchmark("scale", "scale.py", "", "--counts 200 2000 --image-size 96", 25),
    Benchmark("added", "scale.py", "--added --rounds 3", "--added --counts 100 --image-size 96", 3),
    Benchmark("recommend", "recommend.py", "", f"--sample 100 --data {FEW}", 6),
    Benchmark(
        "solvers",
        "solvers.py",
        "",
        f"--rows 1000 --width 256 --classes 20 --rounds 1 --data {FEW}",
        15,
    ),
    Benchmark("estimates", "estimates.py", "", f"--images 48 --data {FEW} mobilenet_v2", 12),
    Benchmark("boundaries", "boundaries.py", "", "--count 2 mobilenet_v2 vgg16", 30),
)


def copy_every_eighth(folder: Path) -> Path:
    """Copy every eighth image of every class and part."""
    for source in sorted(path for path in IMAGES.glob("*/*") if path.is_dir()):
        out = folder / source.relative_to(IMAGES)
        out.mkdir(parents=True)
        for file in sorted(source.iterdir())[::8]:
            shutil.copyfile(file, out / file.name)
    return folder


def result_path(name: str, quick: bool) -> Path:
    """Return the file that keeps a benchmark's result."""
    return RESULTS / ("quick" if quick else "full") / f"{name}.json"


def write_page() -> None:
    """Write the page of all results, with those of the quick form only if there are no others."""
    files = [
        (result_path(benchmark.name, quick=False), result_path(benchmark.name, quick=True))
        for benchmark in BENCHMARKS
    ]
    page.write([full if full.exists() else quick for full, quick in files])


def is_current(benchmark: Benchmark, now: dict) -> bool:
    """Return whether the result of an earlier call is still valid."""
    file = result_path(benchmark.name, now["quick"])
    if not file.exists() or not now["commit"] or now["commit"].endswith("+"):
        return False
    before = json.loads(file.read_text("utf-8"))
    return all(before[fact] == now[fact] for fact in ("commit", "machine", "versions", "options"))


def describe_conditions(benchmark: Benchmark, quick: bool, rounds: int | None) -> dict:
    """Return what a figure depends on; the commit is the last one that changed its sources."""
    options = benchmark.quick if quick else benchmark.options
    if rounds:
        options = re.sub(r"--rounds \d+", f"--rounds {rounds}", options)
    return {
        "benchmark": benchmark.name,
        "script": benchmark.script,
        "options": options,
        "quick": quick,
        "commit": commit("src", f"benchmarks/{benchmark.script}", *SHARED_SOURCES),
        "machine": machine(),
        "versions": versions(),
    }


def run(benchmark: Benchmark, now: dict, few: Path) -> bool:
    """Run a benchmark and keep its result; return whether there is one."""
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        file = Path(folder) / "sheet.json"
        arguments = shlex.split(now["options"].replace(FEW, str(few)))
        command = [sys.executable, str(HERE / benchmark.script), *arguments]
        meter, start = Meter(), time.monotonic()
        command += [] if benchmark.parse else ["--json", str(file)]
        text = run_and_print(command, home=Path(folder) / "home")
        seconds, load = time.monotonic() - start, meter.read()
        if text is None:
            return False
        if benchmark.parse:
            sheet = benchmark.parse(text)
        else:
            sheet = Sheet.from_json(json.loads(file.read_text("utf-8"))) if file.exists() else Sheet()
    if not sheet.rows:
        print(f"{benchmark.name}: nothing was measured", flush=True)
        return False
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    result = {**now, "date": date, "took": seconds, "load": asdict(load), "sheet": asdict(sheet)}
    result["text"] = text if benchmark.parse else ""
    file = result_path(benchmark.name, now["quick"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return True


def run_and_print(command: list[str], *, home: Path) -> str | None:
    """Run a program and print its lines as they come; return its output, or None if it failed.

    `home` is the folder of regraft's store: the user's own cache must not affect a measurement.
    """
    lines = []
    with tempfile.TemporaryFile("w+") as errors:
        variables = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1", "REGRAFT_HOME": str(home)}
        environment = os.environ | variables
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process:
            for line in process.stdout or ():
                print(f"  {line}", end="", flush=True)
                lines.append(line)
        if not process.returncode:
            return "".join(lines)
        errors.seek(0)
        print(f"{command[1]} failed:\n{errors.read()[-2000:]}", flush=True)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--rounds", type=int, help="rounds [default: those of each benchmark]")
    parser.add_argument("--quick", action="store_true", help="only show that all benchmarks work")
    parser.add_argument("--again", action="store_true", help="repeat measurements that are still valid")
    parser.add_argument(
        "--list", action="store_true", help="list the benchmarks and the time that each takes"
    )
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    if options.page:
        write_page()
        return
    benchmarks = [benchmark for benchmark in BENCHMARKS if benchmark.name in options.only]
    if options.list:
        for benchmark in benchmarks:
            print(f"{benchmark.name:<16} {benchmark.minutes:3} min   {benchmark.script} {benchmark.options}")
        print(f"{'all of them':<16} {sum(benchmark.minutes for benchmark in benchmarks):3} min")
        return
    failed = []
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        few = copy_every_eighth(Path(folder) / "images") if options.quick else IMAGES
        for benchmark in benchmarks:
            now = describe_conditions(benchmark, options.quick, options.rounds)
            if not options.again and is_current(benchmark, now):
                print(f"{benchmark.name}: nothing has changed since the last result", flush=True)
                continue
            about = "the quick form" if options.quick else f"about {benchmark.minutes} minutes"
            print(f"\n{benchmark.name}, {about}: {benchmark.script} {now['options']}", flush=True)
            if not run(benchmark, now, few):
                failed.append(benchmark.name)
            write_page()
    if failed:
        sys.exit(f"No result: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
