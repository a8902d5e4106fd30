"""Extraction from files, decoding included, against the bare engine: alternating, ratios within one sitting.

The bare engine is what OpenVINO's benchmark_app measures: the same network at the same precision, inputs in
place, requests always under way; the best of several batches and streams. Extraction is what a first run
does: files decoded by child processes, features into an empty store; the network is converted already. Its
rate is that of the images beyond the first 64, for the bare engine's does not count what comes once, as
reading the network and starting processes, either. With both come the processor's seconds an image, which
say what bounds the ratio: on a processor that both share, extraction cannot pass inference / (inference +
decoding) of the bare rate.

What bounds it:
    extraction: decoding and the engine share the processors; the row says which ratio their times allow.
        Beside decoders the engine takes up to a quarter more of the processor for an image than alone, and
        handing pictures from the decoders to it 1 to 2 ms.

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
from rows import Profile, Row, Sheet, Side, add_json

from regraft import Recipe
from regraft.data.catalog import Catalog
from regraft.data.images.decoder_pool import DecodeAhead
from regraft.features.engine import kept_graph, make_engine
from regraft.features.extract import extract_features
from regraft.features.keras_engine import fingerprint
from regraft.features.store import Store
from regraft.pipeline.embed import embedding_network
from regraft.system.console import SILENT

SHARED = Path(__file__).resolve().parents[2] / "shared"
SETTINGS = [(batch, streams) for batch in (1, 8, 32) for streams in (1, os.cpu_count() or 1)]
ASKED = {"MobileNetV2": 75.0, "ResNet50, random weights": 90.0}  # % of the bare engine's rate
FEW = 64  # images, which take what every extraction takes once
SECONDS = 3.0  # of the bare engine, for each setting in each round


def compiled(graph: Path, batch: int, streams: int, precision: str):
    import openvino

    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape([batch, *list(model.input().partial_shape)[1:]])
    prepare = openvino.preprocess.PrePostProcessor(model)
    prepare.input().tensor().set_element_type(openvino.Type.u8)
    hints = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": str(streams)}
    return core.compile_model(prepare.build(), "CPU", hints)


def bare(network, batch: int) -> tuple[float, float]:
    """Images a second, and the processor's seconds an image, over SECONDS."""
    import openvino

    queue = openvino.AsyncInferQueue(network, network.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    rng = np.random.default_rng(0)
    for request in queue:
        pixels = rng.integers(0, 256, list(network.input().shape)).astype(np.uint8)
        request.set_input_tensor(0, openvino.Tensor(pixels))
    for _ in range(len(queue)):
        queue.start_async()
    queue.wait_all()
    begun, used, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begun < SECONDS:
        queue.start_async()
        count += batch
    queue.wait_all()
    return count / (time.perf_counter() - begun), (time.process_time() - used) / count


def extraction(network, catalog: Catalog, home: Path, precision: str) -> tuple[float, float]:
    """Images a second from files into an empty store, and the processor's seconds for an image."""
    few, all_of_them = (_taken(network, some, home, precision) for some in (_few(catalog), catalog))
    count = len(catalog) - FEW
    return count / (all_of_them[0] - few[0]), (all_of_them[1] - few[1]) / count


def _few(catalog: Catalog) -> Catalog:
    return replace(catalog, samples=catalog.samples[:FEW])


def _taken(network, catalog: Catalog, home: Path, precision: str) -> tuple[float, float]:
    """Seconds that an extraction takes, and the processor's."""
    for stored in home.glob("features-*"):
        shutil.rmtree(stored)
    before, begun = os.times(), time.perf_counter()
    found = extract_features(network, catalog, store=Store(home), precision=precision, reporter=SILENT)
    seconds, after = time.perf_counter() - begun, os.times()
    assert found.computed == len(catalog.contents)
    return seconds, sum(after[:4]) - sum(before[:4])


def decoding(catalog: Catalog, size: int) -> float:
    """The processor's seconds to decode an image and hand it over, where every processor does just that."""
    seconds = []
    for some in (_few(catalog), catalog):
        before = os.times()
        with DecodeAhead(some.jobs(some.contents), size) as ahead:
            for _ in ahead:
                pass
        seconds.append(sum(os.times()[:4]) - sum(before[:4]))
    return (seconds[1] - seconds[0]) / (len(catalog) - FEW)


def measure(name: str, recipe: Recipe, catalog: Catalog, given: argparse.Namespace) -> Sheet:
    """Both rates in turn; prints a line of the table."""
    precision = given.precision
    network = embedding_network(recipe)
    size = network.inputs[0].shape[1]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        engines = Store(home).folder("engines", fingerprint(network))
        make_engine(network, engines, precision=precision)
        graph = kept_graph(engines)
        _taken(network, _few(catalog), home, precision)  # so that both sides find all things warm
        networks = {each: compiled(graph, *each, precision) for each in SETTINGS}
        rates: dict[tuple[int, int], list[tuple[float, float]]] = {each: [] for each in SETTINGS}
        whole = []
        for _ in range(given.rounds):
            for each, ready in networks.items():
                rates[each].append(bare(ready, each[0]))
            whole.append(extraction(network, catalog, home, precision))
    best = max(rates, key=lambda each: statistics.median(rate for rate, _ in rates[each]))
    ratios = [done / max(rates[each][i][0] for each in rates) for i, (done, _) in enumerate(whole)]
    inference = statistics.median(used for _, used in rates[best])
    decode_seconds = decoding(catalog, size)
    cells = [
        name,
        precision,
        f"{statistics.median(rate for rate, _ in rates[best]):.0f} (batch {best[0]}, {best[1]} streams)",
        f"{statistics.median(rate for rate, _ in whole):.0f}",
        f"{statistics.median(ratios):.0%} ({min(ratios):.0%} to {max(ratios):.0%})",
        f"{1000 * inference:.1f}",
        f"{1000 * decode_seconds:.1f}",
        f"{1000 * statistics.median(used for _, used in whole):.1f}",
        f"{inference / (inference + decode_seconds):.0%}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)
    parts = {
        "inference": 1000 * inference,
        "decoding": 1000 * decode_seconds,
        "extraction, all of it": 1000 * statistics.median(used for _, used in whole),
    }
    fastest = f"the bare engine (batch {best[0]}, {best[1]} streams)"
    row = Row(
        f"extraction against the bare engine, {name}, {precision}",
        "%",
        tuple(100 * ratio for ratio in ratios),
        at_least=ASKED[name] if precision == "f32" else None,
        sides=(
            Side(fastest, "images/s", tuple(rate for rate, _ in rates[best])),
            Side("extraction", "images/s", tuple(rate for rate, _ in whole)),
        ),
        remark=f"{len(catalog):,} photographs; where both share the processor, "
        f"{inference / (inference + decode_seconds):.0%} is the bound",
    )
    return Sheet([row], [Profile(f"{name}, {precision}: the processor's time for an image", "ms", parts)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    weights = SHARED / "weights" / "mobilenet_v2_imagenet_224_notop.weights.h5"
    parser.add_argument("--weights", type=Path, default=weights)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--images", type=int, default=None, help="the first so many only")
    add_json(parser)
    given = parser.parse_args()
    for path in (given.data, given.weights):
        if not path.exists():
            print(f"skipped: {path} is not here")
            return
    catalog = Catalog.from_folder(given.data)
    catalog = replace(catalog, samples=catalog.samples[: given.images])
    print(
        f"{len(catalog):,} images, {given.rounds} rounds, {os.cpu_count()} processors, load {os.getloadavg()}"
    )
    print("\n| network | precision | bare images/s | extraction images/s | ratio (spread) "
          "| CPU ms an image: inference | decoding | extraction, all | bound on the ratio |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    found = Sheet()
    for name, recipe in {
        "MobileNetV2": Recipe(backbone="mobilenet_v2", weights=str(given.weights)),
        "ResNet50, random weights": Recipe(backbone="resnet50", weights="random"),
    }.items():
        found.add(measure(name, recipe, catalog, given))
    found.write(given.json)


if __name__ == "__main__":
    main()
