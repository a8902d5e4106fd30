"""Compare extraction from files, decoding included, with the bare engine, in turn.

The bare engine is what OpenVINO's benchmark_app measures: the same network at the same precision, with inputs
in memory and requests always under way, at the best of several batch sizes and numbers of streams. Extraction
is what a first run does: child processes decode files, and features go to an empty store; the network is
converted already. Its rate counts the images after the first 64, since the bare engine's does not count what
is done once either, such as reading the network and starting processes. The processor's seconds per image are
measured too. They bound the ratio: on a processor that both share, extraction can reach inference /
(inference + decoding) of the bare rate at most.

What bounds it:
    extraction: decoding and the engine share the processors; the row gives the ratio that their times allow.
        Beside decoders the engine needs up to a quarter more processor time for an image than alone, and
        passing images from the decoders to it takes 1 to 2 ms.

usage: extraction.py [--rounds N] [--data FOLDER] [--weights FILE] [--precision f32|bf16] [--images N]
    [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rows import IMAGES, MOBILENET, Profile, Row, Sheet, Side, are_present, make_parser

from regraft import Recipe
from regraft.data.catalog import Catalog
from regraft.data.images.decoder_pool import DecodingPool
from regraft.features.engine import graph_path, make_engine
from regraft.features.extract import extract_features
from regraft.features.keras_engine import fingerprint
from regraft.features.store import Store
from regraft.pipeline.embed import load_embedding_network
from regraft.system.console import SILENT

SETTINGS = [(batch, streams) for batch in (1, 8, 32) for streams in (1, os.cpu_count() or 1)]
TARGETS = {"MobileNetV2": 75.0, "ResNet50, random weights": 90.0}  # % of the bare engine's rate
FEW = 64  # images whose extraction takes the time that is spent once
SECONDS = 3.0  # of the bare engine, for each setting in each round


def compile_network(graph: Path, batch: int, streams: int, precision: str):
    import openvino

    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape([batch, *list(model.input().partial_shape)[1:]])
    prepare = openvino.preprocess.PrePostProcessor(model)
    prepare.input().tensor().set_element_type(openvino.Type.u8)
    hints = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": str(streams)}
    return core.compile_model(prepare.build(), "CPU", hints)


def measure_bare(network, batch: int) -> tuple[float, float]:
    """Return images per second, and the processor's seconds per image, over SECONDS."""
    import openvino

    queue = openvino.AsyncInferQueue(network, network.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    rng = np.random.default_rng(0)
    for request in queue:
        pixels = rng.integers(0, 256, list(network.input().shape)).astype(np.uint8)
        request.set_input_tensor(0, openvino.Tensor(pixels))
    for _ in range(len(queue)):
        queue.start_async()
    queue.wait_all()
    start, used, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < SECONDS:
        queue.start_async()
        count += batch
    queue.wait_all()
    return count / (time.perf_counter() - start), (time.process_time() - used) / count


def measure_extraction(network, catalog: Catalog, home: Path, precision: str) -> tuple[float, float]:
    """Return images per second from files into an empty store, and the processor's seconds per image."""
    first = _time_extraction(network, _take_first(catalog), home, precision)
    total = _time_extraction(network, catalog, home, precision)
    count = len(catalog) - FEW
    return count / (total[0] - first[0]), (total[1] - first[1]) / count


def _take_first(catalog: Catalog) -> Catalog:
    return replace(catalog, samples=catalog.samples[:FEW])


def _time_extraction(network, catalog: Catalog, home: Path, precision: str) -> tuple[float, float]:
    """Return the seconds of an extraction, and those of the processor."""
    for folder in home.glob("features-*"):
        shutil.rmtree(folder)
    before, start = os.times(), time.perf_counter()
    features = extract_features(network, catalog, store=Store(home), precision=precision, reporter=SILENT)
    seconds, after = time.perf_counter() - start, os.times()
    assert features.computed == len(catalog.digests)
    return seconds, sum(after[:4]) - sum(before[:4])


def measure_decoding(catalog: Catalog, size: int) -> float:
    """Return the processor's seconds to decode an image and pass it on, when all processors only decode."""
    seconds = []
    for images in (_take_first(catalog), catalog):
        before = os.times()
        with DecodingPool(images.make_jobs(images.digests), size) as pool:
            for _ in pool:
                pass
        seconds.append(sum(os.times()[:4]) - sum(before[:4]))
    return (seconds[1] - seconds[0]) / (len(catalog) - FEW)


def measure(name: str, recipe: Recipe, catalog: Catalog, options: argparse.Namespace) -> Sheet:
    """Measure both rates in turn, and print a line of the table."""
    precision = options.precision
    network = load_embedding_network(recipe)
    size = network.inputs[0].shape[1]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        engines = Store(home).folder("engines", fingerprint(network))
        make_engine(network, engines, precision=precision)
        graph = graph_path(engines)
        _time_extraction(network, _take_first(catalog), home, precision)  # warms up both sides
        networks = {setting: compile_network(graph, *setting, precision) for setting in SETTINGS}
        rates: dict[tuple[int, int], list[tuple[float, float]]] = {setting: [] for setting in SETTINGS}
        extractions = []
        for _ in range(options.rounds):
            for setting, compiled in networks.items():
                rates[setting].append(measure_bare(compiled, setting[0]))
            extractions.append(measure_extraction(network, catalog, home, precision))
    best = max(rates, key=lambda setting: statistics.median(rate for rate, _ in rates[setting]))
    ratios = [
        rate / max(rates[setting][i][0] for setting in rates) for i, (rate, _) in enumerate(extractions)
    ]
    inference = statistics.median(used for _, used in rates[best])
    decode_seconds = measure_decoding(catalog, size)
    cells = [
        name,
        precision,
        f"{statistics.median(rate for rate, _ in rates[best]):.0f} (batch {best[0]}, {best[1]} streams)",
        f"{statistics.median(rate for rate, _ in extractions):.0f}",
        f"{statistics.median(ratios):.0%} ({min(ratios):.0%} to {max(ratios):.0%})",
        f"{1000 * inference:.1f}",
        f"{1000 * decode_seconds:.1f}",
        f"{1000 * statistics.median(used for _, used in extractions):.1f}",
        f"{inference / (inference + decode_seconds):.0%}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)
    parts = {
        "inference": 1000 * inference,
        "decoding": 1000 * decode_seconds,
        "extraction, all of it": 1000 * statistics.median(used for _, used in extractions),
    }
    fastest = f"the bare engine (batch {best[0]}, {best[1]} streams)"
    row = Row(
        f"extraction against the bare engine, {name}, {precision}",
        "%",
        tuple(100 * ratio for ratio in ratios),
        at_least=TARGETS[name] if precision == "f32" else None,
        sides=(
            Side(fastest, "images/s", tuple(rate for rate, _ in rates[best])),
            Side("extraction", "images/s", tuple(rate for rate, _ in extractions)),
        ),
        remark=f"{len(catalog):,} images; where both share the processor, "
        f"{inference / (inference + decode_seconds):.0%} is the bound",
    )
    return Sheet([row], [Profile(f"{name}, {precision}: processor time per image", "ms", parts)])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--weights", type=Path, default=MOBILENET)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--images", type=int, default=None, help="use only the first N images")
    options = parser.parse_args()
    if not are_present(options.data, options.weights):
        return
    catalog = Catalog.from_folder(options.data)
    catalog = replace(catalog, samples=catalog.samples[: options.images])
    print(
        f"{len(catalog):,} images, {options.rounds} rounds, {os.cpu_count()} processors, load "
        f"{os.getloadavg()}"
    )
    print("\n| network | precision | bare images/s | extraction images/s | ratio (spread) "
          "| CPU ms an image: inference | decoding | extraction, all | bound on the ratio |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    sheet = Sheet()
    for name, recipe in {
        "MobileNetV2": Recipe(backbone="mobilenet_v2", weights=str(options.weights)),
        "ResNet50, random weights": Recipe(backbone="resnet50", weights="random"),
    }.items():
        sheet.add(measure(name, recipe, catalog, options))
    sheet.write(options.json)


if __name__ == "__main__":
    main()
