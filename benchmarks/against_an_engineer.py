"""regraft against a script that a skilled engineer writes in an hour: whole processes, in turn.

`engineer_recipe.py` runs MobileNetV2 in ONNX Runtime, decodes with Pillow in threads, and solves
scikit-learn's logistic regression. Its network is converted once, before anything is timed. It is compared
with `regraft train --unfreeze none` with an empty store, and with the same command again with that store.
regraft does more in that time: it looks for duplicates and broken files, holds out a validation part, and
writes a model, its graph and a report. Needs onnx, onnxruntime and tf2onnx (`pip install --group bench`).

usage: against_an_engineer.py [--rounds N] [--data FOLDER] [--weights FILE] [--auto] [--json FILE]
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from processes import (
    ProcessRun,
    add_comparison,
    compare_scores,
    make_comparison_parser,
    run_process,
    run_rounds,
)  # fmt: skip
from rows import MOBILENET, Sheet, are_present

NEEDED = ("onnx", "onnxruntime", "tf2onnx")
CONVERT = """
import sys, keras, numpy
network = keras.applications.MobileNetV2(
    include_top=False, pooling="avg", weights=sys.argv[1], input_shape=(224, 224, 3))
network(numpy.zeros((1, 224, 224, 3), "float32"))  # Keras exports only a network that was called
network.export(sys.argv[2], format="onnx", verbose=False)
"""


def convert(weights: str, file: Path) -> None:
    """Write the network as ONNX, in a process of its own."""
    command = [sys.executable, "-c", CONVERT, weights, str(file)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"MobileNetV2 could not be written as ONNX:\n{process.stderr[-2000:]}")


def run_engineer(data: Path, network: Path) -> ProcessRun:
    """Run the script as a process of its own."""
    script = str(Path(__file__).with_name("engineer_recipe.py"))
    seconds, memory, out = run_process([sys.executable, script, str(data), str(network)])
    result = json.loads(out.splitlines()[-1])
    parts = dict(result["parts"])
    parts["imports and the network"] = seconds - sum(parts.values())
    return ProcessRun(seconds, memory, result["top1"], parts)


def main() -> None:
    options = make_comparison_parser(__doc__).parse_args()
    options.backbone, options.weights = "mobilenet_v2", options.weights or str(MOBILENET)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"skipped: {', '.join(missing)} not found")
    if missing or not are_present(options.data, options.weights):
        return
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        network = Path(folder) / "network.onnx"
        convert(options.weights, network)
        rounds = run_rounds(options, lambda: run_engineer(options.data, network), "an engineer's script")
    sheet, title = Sheet(), "against an engineer's script"
    remark = f"{sum(1 for _ in options.data.glob('*/*/*')):,} images, MobileNetV2"
    add_comparison(sheet, rounds, other="the script", title=title, targets=(1.0, 3.0), remark=remark)
    name = "test top-1 of the probe less the engineer's"
    sheet.rows.append(compare_scores(rounds, name=name, other="the script"))
    sheet.write(options.json)


if __name__ == "__main__":
    main()
