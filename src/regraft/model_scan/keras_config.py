"""The configuration of a model, read without building anything: its layers, and what is wrong with it.

How many numbers the layers of a configuration would hold once built, from what it says alone.

Keras makes a layer's weights before it reads a file's. So a few bytes of configuration can ask for any amount
of memory, unless they are counted first: a `Dense` of 10^9 units says so, and the file must hold as many.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from regraft.model_scan.allowlist import MODELS, why_not, why_not_function
from regraft.model_scan.archive import quoted

__all__ = ["Configuration", "Layer", "expected", "read_config", "too_large"]


MOST_LAYERS = 5_000  # the deepest of keras.applications has 1,300
MOST_CALLS = 20_000
DEEPEST = 100

# What stands for values in a configuration; "__lambda__" and "__typespec__" stand for programs.
_VALUES = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}


@dataclass(frozen=True)
class Layer:
    """A layer as the configuration describes it.

    Attributes:
        name: its own.
        kind: its class.
        module: where the class lives.
        config: its settings.
        built: the shapes it was built for, by name; the batch first.
        shared: equal for entries that are one and the same object; None for most.
    """

    name: str
    kind: str
    module: str
    config: dict[str, Any]
    built: dict[str, Any]
    shared: object = None

    def __str__(self) -> str:
        return f"layer {quoted(self.name)} ({quoted(self.kind)})"


@dataclass
class Configuration:
    """What a configuration says. `suspicious` are sentences; where there is one, Keras must not see it."""

    own: Collection[str] = ()
    layers: list[Layer] = field(default_factory=list)
    calls: int = 0
    inputs: list[tuple[str, Any]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    suspicious: list[str] = field(default_factory=list)


def read_config(text: bytes, own: Collection[str] = ()) -> Configuration:
    """Read the JSON text of a model; `own` as in `regraft.model_scan.allowlist.why_not`."""
    found = Configuration(own=own)
    try:
        root = json.loads(text)
    except RecursionError:
        found.suspicious.append("its configuration is nested too deeply.")
        return found
    except ValueError as fault:
        found.suspicious.append(f"its configuration is no JSON ({fault}).")
        return found
    if not isinstance(root, dict) or (root.get("module"), root.get("class_name")) not in MODELS:
        named = quoted(str(root.get("class_name"))) if isinstance(root, dict) else "no object"
        found.suspicious.append(f"expected a Functional or Sequential model. Received: {named}.")
    else:
        root.pop("compile_config", None)  # Keras is told not to read it
        found.outputs = list(_names(root.get("config", {}), "output_layers"))
    _walk(root, found)
    return found


def _walk(root: Any, found: Configuration) -> None:
    waiting: list[tuple[Any, str, int]] = [(root, "the model", 0)]
    while waiting:
        value, place, depth = waiting.pop()
        if depth > DEEPEST:
            found.suspicious.append("its configuration is nested too deeply.")
            return
        if len(found.layers) > MOST_LAYERS or found.calls > MOST_CALLS:
            found.suspicious.append(f"it has more than {MOST_LAYERS:,} layers, or calls them too often.")
            return
        if isinstance(value, dict):
            if "class_name" in value:
                place = _look(value, place, found)
            waiting.extend((part, place, depth + 1) for part in value.values())
        elif isinstance(value, list):
            waiting.extend((part, place, depth + 1) for part in value)


def _look(entry: dict[str, Any], place: str, found: Configuration) -> str:
    """Check one object of the configuration; returns what to call the place its parts are in."""
    kind, config = entry["class_name"], entry.get("config")
    if kind in _VALUES:
        return place
    if kind == "function":
        why = why_not_function(entry.get("module"), config, found.own)
        if why:
            found.suspicious.append(f"{place}: function {quoted(str(config))} {why}.")
        return place
    config = config if isinstance(config, dict) else {}
    module = entry.get("module")
    name = str(config.get("name", entry.get("name", "")))
    built = _shapes(entry.get("build_config"))
    layer = Layer(name, str(kind), str(module), config, built, entry.get("shared_object_id"))
    why = why_not(module, str(kind), entry.get("registered_name"), found.own)
    if kind in ("__lambda__", "__typespec__"):
        why = "is a program"
    if why:
        at = str(layer) if name else f"{place}: {quoted(str(kind))}"
        found.suspicious.append(f"{at} {why}.")
        return at
    if (module, kind) not in MODELS:
        if module != "keras.layers" and re.match(r"keras(\.(?!src\.)|$)", str(module)):
            return place
        found.layers.append(layer)
        if kind == "InputLayer":
            found.inputs.append((name, config.get("batch_shape", config.get("batch_input_shape"))))
    _check_calls(entry, layer, found)
    return str(layer)


def _check_calls(entry: dict[str, Any], layer: Layer, found: Configuration) -> None:
    """A layer that is called on values instead of tensors computes at once, however large the result."""
    calls = entry.get("inbound_nodes", [])
    found.calls += len(calls)
    for call in calls:
        if isinstance(call, dict) and not _has_tensor(call):
            found.suspicious.append(f"{layer} is called on no tensor.")
            return


def _has_tensor(call: Any) -> bool:
    waiting = [call]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("class_name") == "__keras_tensor__":
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


def _shapes(build: Any) -> dict[str, Any]:
    if not isinstance(build, dict):
        return {}
    shapes = build.get("shapes_dict")
    return shapes if isinstance(shapes, dict) else build


def _names(config: Any, key: str) -> Iterator[str]:
    """Names of layers in `input_layers` or `output_layers`, nested as the model's own outputs are."""
    waiting = [config.get(key, [])] if isinstance(config, dict) else []
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, list) and value and isinstance(value[0], str):
            yield value[0]
        elif isinstance(value, (list, dict)):
            waiting.extend(value.values() if isinstance(value, dict) else value)


# How many times as many numbers as the file holds its configuration may ask for, and how many any model may:
# quantised weights share bytes; layers without a formula are estimated.
KNOWN_SLACK, KNOWN_FREE = 4, 2**20
ESTIMATE_SLACK, ESTIMATE_FREE = 16, 2**22

_ESTIMATED = re.compile(
    r"Attention|AdditiveAttention|(Simple)?RNN(Cell)?|LSTM(Cell)?|GRU(Cell)?|ConvLSTM[123]D|GroupQueryAttention"
)
_WINDOW = re.compile("kernel|patch_size|window")
_NO_LENGTH = {"seed", "axis", "axes", "shared_object_id", "factor", "trainable", "name"}


def too_large(configuration: Configuration, held: int) -> list[str]:
    """Sentences on layers that ask for more numbers than `held`, the file's, can be meant for; or []."""
    known: dict[object, tuple[int, Layer]] = {}
    estimated: dict[object, tuple[int, Layer]] = {}
    problems = []
    for place, layer in enumerate(configuration.layers):
        try:
            count, sure = expected(layer)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError):
            problems.append(f"{layer} does not say which shapes it was built for.")
            continue
        key = place if layer.shared is None else str(layer.shared)  # one object, wherever it stands
        counts = known if sure else estimated
        counts[key] = max(counts.get(key, (0, layer)), (count, layer), key=lambda pair: pair[0])
    for counts, slack, free in ((known, KNOWN_SLACK, KNOWN_FREE), (estimated, ESTIMATE_SLACK, ESTIMATE_FREE)):
        if sum(count for count, _ in counts.values()) > slack * held + free:
            count, layer = max(counts.values(), key=lambda pair: pair[0])
            problems.append(f"{layer} alone would hold about {count:,} numbers; the whole file has {held:,}.")
    return problems


def expected(layer: Layer) -> tuple[int, bool]:
    """How many numbers a layer holds, and whether that follows from its kind; else it is an estimate.

    Raises:
        KeyError, TypeError, ValueError, IndexError, AttributeError: the configuration does not say.
    """
    if layer.module == "keras.layers":
        formula = _FORMULAS.get(layer.kind)
        if formula is None:
            return (_estimate(layer), False) if _ESTIMATED.fullmatch(layer.kind) else (0, True)
        return formula(layer.config, layer.built.get("input_shape", layer.built)), True
    if layer.kind == "SavedModelLayer":
        variables = layer.config["facts"]["variables"]
        return sum(math.prod(map(_whole, shape)) for _, shape, _, _ in variables), True
    return (0, True) if layer.module.startswith("keras.src.ops.") else (_estimate(layer), False)


def _convolution(config: dict[str, Any], shape: Any) -> int:
    """Of any rank; also one for each channel (`depthwise`), and that with one of 1 x 1 behind it."""
    channels = _whole(shape[1] if config.get("data_format") == "channels_first" else shape[-1])
    size = config["kernel_size"]
    kernel = math.prod(map(_whole, size if isinstance(size, list) else [size] * (len(shape) - 2)))
    if "depth_multiplier" in config:
        between = channels * _whole(config["depth_multiplier"])
        return between * (kernel + 1) + (between + 1) * _whole(config.get("filters") or 0)
    return (channels * kernel // _whole(config.get("groups", 1)) + 1) * _whole(config["filters"])


def _dense(config: dict[str, Any], shape: Any) -> int:
    return _whole(config["units"]) * (_whole(shape[-1]) + 1)


def _einsum(config: dict[str, Any], shape: Any) -> int:
    """The kernel's letters have the lengths that they have in the input or in the output."""
    given, kernel, result = re.split(",|->", config["equation"])
    output = _listed(config["output_shape"])
    lengths = {
        **dict(zip(reversed(result.replace(".", "")), reversed(output), strict=False)),
        **dict(zip(reversed(given.replace(".", "")), reversed(shape), strict=False)),
    }
    bias = math.prod(_whole(side) for side in output if side is not None)
    return math.prod(_whole(lengths[letter]) for letter in kernel) + bias


def _table(config: dict[str, Any], shape: Any) -> int:
    return _whole(config["input_dim"]) * _whole(config["output_dim"])


def _normalization(config: dict[str, Any], shape: Any) -> int:
    axes = [] if config["axis"] is None else _listed(config["axis"])
    return 4 * math.prod(_whole(shape[axis]) for axis in axes)


def _slopes(config: dict[str, Any], shape: Any) -> int:
    shared = config.get("shared_axes") or ()
    return math.prod(_whole(side) for axis, side in enumerate(shape) if axis and axis not in shared)


def _heads(config: dict[str, Any], shapes: Any) -> int:
    depth = max(_whole(config["key_dim"]), _whole(config.get("value_dim") or 0))
    channels = max(_whole(shape[-1]) for shape in shapes.values() if shape)
    return 4 * _whole(config["num_heads"]) * depth * (channels + 1)


_FORMULAS: dict[str, Callable[[dict[str, Any], Any], int]] = {
    "Dense": _dense,
    "EinsumDense": _einsum,
    "Embedding": _table,
    "ReversibleEmbedding": _table,
    "MultiHeadAttention": _heads,
    "PReLU": _slopes,
    **{f"{kind}Normalization": _normalization for kind in ("", "Batch", "Group", "Layer", "RMS")},
    **{
        f"{variant}{word}{rank}D{direction}": _convolution
        for variant in ("", "Depthwise", "Separable")
        for word in ("Conv", "Convolution")
        for rank in (1, 2, 3)
        for direction in ("", "Transpose")
    },
}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _whole(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"no length: {value}")
    return value


def _estimate(layer: Layer) -> int:
    """Of a layer without a formula: its two largest lengths, for each place of its kernels or patches."""
    lengths = sorted(_sizes({**layer.config, "built": layer.built}))[-2:]
    windows = [max(_sizes(value), default=1) for key, value in layer.config.items() if _WINDOW.search(key)]
    return math.prod(lengths) * max(windows, default=1) ** 2


def _sizes(value: Any) -> Iterator[int]:
    """Whole numbers in settings and shapes that may be lengths; those of layers inside count there."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield value
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict) and "class_name" not in value:
            waiting.extend(part for key, part in value.items() if key not in _NO_LENGTH)
