"""regraft against what a handy engineer writes in an hour: whole processes from the shell, alternating.

The script beside this one runs MobileNetV2 in ONNX Runtime, decodes with Pillow in threads, and solves
scikit-learn's logistic regression. Its network is converted once, before anything is timed. Against it stand
`regraft train --unfreeze none` with an empty store, and the same again with that store. regraft does more
in that time: it looks for copies and broken files, draws a validation part, writes a model, its graph and a
report. Needs onnx, onnxruntime and tf2onnx (`pip install --group bench`).

usage: against_an_engineer.py [--rounds N] [--data FOLDER] [--weights FILE] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from against_the_guide import MOBILENET, SHARED, Measured, measure, profile, regraft, show, side
from rows import Row, Sheet, add_json, ratios

NEEDED = ("onnx", "onnxruntime", "tf2onnx")
CONVERT = """
import sys, keras, numpy
network = keras.applications.MobileNetV2(
    include_top=False, pooling="avg", weights=sys.argv[1], input_shape=(224, 224, 3))
network(numpy.zeros((1, 224, 224, 3), "float32"))  # Keras exports what was called
network.export(sys.argv[2], format="onnx", verbose=False)
"""


def convert(weights: Path, file: Path) -> None:
    """Write the network as ONNX, in a process of its own."""
    command = [sys.executable, "-c", CONVERT, str(weights), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"MobileNetV2 could not be written as ONNX:\n{done.stderr[-2000:]}")


def engineer(data: Path, network: Path) -> Measured:
    """The script, from the start of Python to what it prints."""
    script = str(Path(__file__).with_name("engineer_recipe.py"))
    seconds, memory, out = measure([sys.executable, script, str(data), str(network)], {})
    printed = json.loads(out.splitlines()[-1])
    parts = dict(printed["parts"])
    parts["imports and the network"] = seconds - sum(parts.values())
    return Measured(seconds, memory, printed["top1"], parts)


def sheet(data: Path, script: list[Measured], first: list[Measured], again: list[Measured]) -> Sheet:
    """Both ratios, memory and scores, and where each of the three spends its time."""
    remark = f"{sum(1 for _ in data.glob('*/*/*')):,} photographs, MobileNetV2"
    slow, found = side("the script", script), Sheet()
    for what, runs, asked in (("first run", first, 1.0), ("warm store", again, 3.0)):
        fast = side("regraft", runs)
        values = ratios(slow.values, fast.values)
        title = f"whole process, {what}, against an engineer's script"
        found.rows.append(Row(title, "times", values, at_least=asked, sides=(slow, fast), remark=remark))
        found.profiles.append(profile(f"regraft, {what}", runs))
    found.profiles.append(profile("an engineer's script", script))
    points = tuple(100 * (run.top1 - other.top1) for run, other in zip(first, script, strict=True))
    title = "test top-1 of the probe less the engineer's"
    found.rows.append(Row(title, "points", points, remark=f"the script: {100 * script[-1].top1:.1f} %"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    parser.add_argument("--weights", type=Path, default=MOBILENET)
    add_json(parser)
    options = parser.parse_args()
    options.backbone = "mobilenet_v2"
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    missing += [str(path) for path in (options.data, options.weights) if not path.exists()]
    if missing:
        print(f"skipped: {', '.join(missing)} not here")
        return
    script, first, again = [], [], []
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        network = Path(folder) / "network.onnx"
        convert(options.weights, network)
        for number in range(options.rounds):
            place = Path(folder) / str(number)
            script.append(engineer(options.data, network))
            first.append(regraft(options, place, "--unfreeze", "none"))
            again.append(regraft(options, place, "--unfreeze", "none"))
    show("an engineer's script", script)
    show("regraft --unfreeze none, first", first)
    show("regraft --unfreeze none, again", again)
    found = sheet(options.data, script, first, again)
    one, other = found.rows[0].median, found.rows[1].median
    print(f"first run: {one:.2f} times as fast as the script; again: {other:.1f} times")
    found.write(options.json)


if __name__ == "__main__":
    main()
