"""All benchmarks, one after the other, and the page made of what they found. What `make bench` runs.

Each is a program of its own beside this one. What it found is kept in benchmarks/results with date, commit,
machine and load; a later call keeps it as long as neither the sources nor the machine nor the versions have
changed, so the page may come together over several sittings. --again measures anew, --only some of them.
--quick proves in minutes that all of them work: on every eighth photograph, few rounds, small numbers. Its
figures mean little; the page shows them, and says so, where there are no others.

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
from rows import Sheet

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PHOTOS = HERE.parents[1] / "shared" / "images" / "clothing"
YARDSTICKS = ("benchmarks/guide_recipe.py", "benchmarks/engineer_recipe.py")
FEW = "FEW"  # in the options of the quick form: the folder of some photographs


@dataclass(frozen=True)
class Benchmark:
    """A program and its options; how long it takes in full on two idle cores.

    Attributes:
        quick: its options in the quick form.
        reads: makes a sheet of what it prints, where it does not write one itself.
    """

    name: str
    script: str
    options: str
    quick: str
    minutes: int
    reads: Callable[[str], Sheet] | None = None


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
    Benchmark("startup", "startup.py", "--rounds 7", f"--rounds 1 --data {FEW}", 4, printed.startup),
    Benchmark(
        "stage",
        "finetune.py",
        "--only stage --rounds 3",
        f"--only stage --images 32 --epochs 1 --rounds 1 --data {FEW}",
        6,
        printed.finetune,
    ),
    Benchmark(
        "all",
        "finetune.py",
        "--only all --rounds 3",
        f"--only all --images 16 --epochs 1 --rounds 1 --data {FEW}",
        12,
        printed.finetune,
    ),
    Benchmark(
        "mixed-bfloat16",
        "finetune.py",
        "--only bf16 --images 128 --rounds 1",
        f"--only bf16 --images 16 --epochs 1 --rounds 1 --data {FEW}",
        10,
        printed.finetune,
    ),
    Benchmark(
        "search",
        "search.py",
        "--image-size 96",
        f"--each 3 --epochs 2 --image-size 96 --plans stage:block_16 --data {FEW}",
        20,
    ),
    Benchmark("taps", "taps.py", "", f"--rounds 1 --photos {FEW}/train", 6, printed.taps),
    Benchmark("precision", "precision.py", "--rounds 3", f"--seeds 1 --rounds 1 --data {FEW}", 6),
    Benchmark("scale", "scale.py", "", "--counts 200 2000 --image-size 96", 25),
    Benchmark("added", "scale.py", "--added --rounds 3", "--added --counts 100 --image-size 96", 3),
    Benchmark("recommend", "recommend.py", "", f"--sample 100 --data {FEW}", 6),
    Benchmark("solvers", "solvers.py", "", "--rows 1000 --width 256 --classes 20 --rounds 1", 3),
    Benchmark("estimates", "estimates.py", "", f"--images 48 --data {FEW} mobilenet_v2", 12),
    Benchmark("boundaries", "boundaries.py", "", "--count 2 mobilenet_v2 vgg16", 30),
)


def every_eighth(folder: Path) -> Path:
    """Of every class in every part each eighth photograph, at the same place."""
    for place in sorted(place for place in PHOTOS.glob("*/*") if place.is_dir()):
        out = folder / place.relative_to(PHOTOS)
        out.mkdir(parents=True)
        for file in sorted(place.iterdir())[::8]:
            shutil.copyfile(file, out / file.name)
    return folder


def result(name: str, quick: bool) -> Path:
    """Where what a benchmark found is kept."""
    return RESULTS / ("quick" if quick else "full") / f"{name}.json"


def write_page() -> None:
    """The page of all results; those of the quick form only where there are no others."""
    files = [(result(each.name, quick=False), result(each.name, quick=True)) for each in BENCHMARKS]
    page.write([full if full.exists() else quick for full, quick in files])


def kept(benchmark: Benchmark, now: dict) -> bool:
    """Whether what was found before still stands."""
    file = result(benchmark.name, now["quick"])
    if not file.exists() or not now["commit"] or now["commit"].endswith("+"):
        return False
    before = json.loads(file.read_text("utf-8"))
    return all(before[fact] == now[fact] for fact in ("commit", "machine", "versions", "options"))


def circumstances(benchmark: Benchmark, quick: bool, rounds: int | None) -> dict:
    """What a figure depends on; the commit is the last that changed anything of it."""
    options = benchmark.quick if quick else benchmark.options
    if rounds:
        options = re.sub(r"--rounds \d+", f"--rounds {rounds}", options)
    return {
        "benchmark": benchmark.name,
        "script": benchmark.script,
        "options": options,
        "quick": quick,
        "commit": commit("src", f"benchmarks/{benchmark.script}", *YARDSTICKS),
        "machine": machine(),
        "versions": versions(),
    }


def run(benchmark: Benchmark, now: dict, few: Path) -> bool:
    """Run one and keep what it found; whether it found anything."""
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        file = Path(folder) / "sheet.json"
        asked = shlex.split(now["options"].replace(FEW, str(few)))
        command = [sys.executable, str(HERE / benchmark.script), *asked]
        meter, begun = Meter(), time.monotonic()
        command += [] if benchmark.reads else ["--json", str(file)]
        text = shown(command, home=Path(folder) / "home")
        took, load = time.monotonic() - begun, meter.read()
        if text is None:
            return False
        if benchmark.reads:
            sheet = benchmark.reads(text)
        else:
            sheet = Sheet.of(json.loads(file.read_text("utf-8"))) if file.exists() else Sheet()
    if not sheet.rows:
        print(f"{benchmark.name}: nothing was measured", flush=True)
        return False
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    found = {**now, "date": date, "took": took, "load": asdict(load), "sheet": asdict(sheet)}
    found["text"] = text if benchmark.reads else ""
    file = result(benchmark.name, now["quick"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return True


def shown(command: list[str], *, home: Path) -> str | None:
    """Run a program and show its lines as they come; all of them, or None where it failed.

    `home` is where regraft keeps what it computes: the user's own cache has no part in a measurement.
    """
    lines = []
    with tempfile.TemporaryFile("w+") as errors:
        more = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1", "REGRAFT_HOME": str(home)}
        environment = os.environ | more
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
    names = [each.name for each in BENCHMARKS]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--rounds", type=int, help="of those that have rounds; by itself, each has its own")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--again", action="store_true", help="also what is known already")
    parser.add_argument("--list", action="store_true", help="what there is, and how long it takes in full")
    parser.add_argument("--page", action="store_true", help="only make the page anew")
    options = parser.parse_args()
    if options.page:
        write_page()
        return
    chosen = [each for each in BENCHMARKS if each.name in options.only]
    if options.list:
        for each in chosen:
            print(f"{each.name:<16} {each.minutes:3} min   {each.script} {each.options}")
        print(f"{'all of them':<16} {sum(each.minutes for each in chosen):3} min")
        return
    failed = []
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        few = every_eighth(Path(folder) / "photographs") if options.quick else PHOTOS
        for each in chosen:
            now = circumstances(each, options.quick, options.rounds)
            if not options.again and kept(each, now):
                print(f"{each.name}: kept, nothing has changed since", flush=True)
                continue
            about = "the quick form" if options.quick else f"about {each.minutes} minutes"
            print(f"\n{each.name}, {about}: {each.script} {now['options']}", flush=True)
            if not run(each, now, few):
                failed.append(each.name)
            write_page()
    if failed:
        sys.exit(f"Without result: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
