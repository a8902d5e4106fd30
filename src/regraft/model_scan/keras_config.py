"""The configuration of a model, read without building anything: layers, their sizes, what is suspicious.

Keras creates a layer's weights before it reads those of the file, so a few bytes of configuration can ask for
any amount of memory. Therefore the numbers that the layers would hold are counted first: where the
configuration asks for a `Dense` of 10^9 units, the file must hold as many numbers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from regraft.model_scan.allowlist import MODELS, explain_refused_class, explain_refused_function
from regraft.model_scan.archive import quote_name

__all__ = ["Configuration", "Layer", "count_layer_numbers", "find_oversized_layers", "read_config"]

MOST_LAYERS = 5_000  # the deepest of keras.applications has 1,300
MOST_CALLS = 20_000
DEEPEST = 100

# Classes that stand for values in a configuration; "__lambda__" and "__typespec__" stand for programs.
_VALUES = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}


@dataclass(frozen=True)
class Layer:
    """A layer as the configuration describes it.

    Attributes:
        name: its name.
        kind: the name of its class.
        module: the module of its class.
        config: its settings.
        built: the shapes that it was built for, by name; the batch axis first.
        shared: equal for entries that are one and the same object; None for most.
    """

    name: str
    kind: str
    module: str
    config: dict[str, Any]
    built: dict[str, Any]
    shared: object = None

    def __str__(self) -> str:
        return f"layer {quote_name(self.name)} ({quote_name(self.kind)})"


@dataclass
class Configuration:
    """The content of a configuration. Where `suspicious` has a sentence, Keras must not read the file."""

    user_names: Collection[str] = ()
    layers: list[Layer] = field(default_factory=list)
    calls: int = 0
    inputs: list[tuple[str, Any]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    suspicious: list[str] = field(default_factory=list)


def read_config(text: bytes, user_names: Collection[str] = ()) -> Configuration:
    """Read the JSON text of a model; `user_names` as in `explain_refused_class`."""
    configuration = Configuration(user_names)
    try:
        root = json.loads(text)
    except RecursionError:
        configuration.suspicious.append("its configuration is nested too deeply.")
        return configuration
    except ValueError as fault:
        configuration.suspicious.append(f"its configuration is not JSON ({fault}).")
        return configuration
    if not isinstance(root, dict) or (str(root.get("module")), str(root.get("class_name"))) not in MODELS:
        kind = quote_name(str(root.get("class_name"))) if isinstance(root, dict) else "no object"
        configuration.suspicious.append(f"expected a Functional or Sequential model. Received: {kind}.")
    else:
        root.pop("compile_config", None)  # Keras is told not to read it
        configuration.inputs, configuration.outputs = _list_ends(root.get("config"))
    _add_objects(root, configuration)
    return configuration


def _list_ends(config: Any) -> tuple[list[tuple[str, Any]], list[str]]:
    """Return the inputs of a model, not of networks within it, with their shapes, and its outputs' layers."""
    layers = config.get("layers") if isinstance(config, dict) else None
    entries = [entry for entry in layers if isinstance(entry, dict)] if isinstance(layers, list) else []
    settings = [entry.get("config") for entry in entries]
    named = {
        str(values.get("name")): values.get("batch_shape", values.get("batch_input_shape"))
        for entry, values in zip(entries, settings, strict=True)
        if isinstance(values, dict) and entry.get("class_name") == "InputLayer"
    }
    inputs = [(name, named[name]) for name in _iterate_layer_names(config, "input_layers") if name in named]
    outputs = list(_iterate_layer_names(config, "output_layers"))
    if isinstance(config, dict) and "input_layers" not in config:  # a Sequential model
        shape = config.get("build_input_shape")
        inputs = list(named.items()) or ([("input", shape)] if shape else [])
        outputs = [
            str(values["name"]) for values in settings[-1:] if isinstance(values, dict) and "name" in values
        ]
    return inputs, outputs


def _add_objects(root: Any, configuration: Configuration) -> None:
    """Add every object of a JSON value to the configuration, outer objects first."""
    waiting: list[tuple[Any, str, int]] = [(root, "the model", 0)]
    while waiting:
        value, owner, depth = waiting.pop()
        if depth > DEEPEST:
            configuration.suspicious.append("its configuration is nested too deeply.")
            return
        if len(configuration.layers) > MOST_LAYERS or configuration.calls > MOST_CALLS:
            configuration.suspicious.append(
                f"it has more than {MOST_LAYERS:,} layers, or calls them too often."
            )
            return
        if isinstance(value, dict):
            if "class_name" in value:
                owner = _add_object(value, owner, configuration)
            waiting.extend((item, owner, depth + 1) for item in value.values())
        elif isinstance(value, list):
            waiting.extend((item, owner, depth + 1) for item in value)


def _add_object(entry: dict[str, Any], owner: str, configuration: Configuration) -> str:
    """Check one object of the configuration; return how messages name the owner of the objects inside it."""
    kind, module, config = str(entry["class_name"]), str(entry.get("module")), entry.get("config")
    if kind in _VALUES:
        return owner
    if kind == "function":
        reason = explain_refused_function(module, config, configuration.user_names)
        if reason:
            configuration.suspicious.append(f"{owner}: function {quote_name(str(config))} {reason}.")
        return owner
    config = config if isinstance(config, dict) else {}
    name = str(config.get("name", entry.get("name", "")))
    built = _read_shapes(entry.get("build_config"))
    layer = Layer(name, kind, module, config, built, entry.get("shared_object_id"))
    reason = explain_refused_class(module, kind, entry.get("registered_name"), configuration.user_names)
    if kind in ("__lambda__", "__typespec__"):
        reason = "is a program"
    if reason:
        label = str(layer) if name else f"{owner}: {quote_name(kind)}"
        configuration.suspicious.append(f"{label} {reason}.")
        return label
    if (module, kind) not in MODELS:
        if module != "keras.layers" and re.match(r"keras(\.(?!src\.)|$)", module):
            return owner
        configuration.layers.append(layer)
    _check_calls(entry, layer, configuration)
    return str(layer)


def _check_calls(entry: dict[str, Any], layer: Layer, configuration: Configuration) -> None:
    """Refuse calls on values: Keras would compute their result while it builds, however large it is."""
    calls = entry.get("inbound_nodes", [])
    if not isinstance(calls, list):
        configuration.suspicious.append(f"{layer} has calls that are no list.")
        return
    configuration.calls += len(calls)
    for call in calls:
        if isinstance(call, dict) and not _has_tensor(call):
            configuration.suspicious.append(f"{layer} is called on no tensor.")
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


def _read_shapes(build: Any) -> dict[str, Any]:
    if not isinstance(build, dict):
        return {}
    shapes = build.get("shapes_dict")
    return shapes if isinstance(shapes, dict) else build


def _iterate_layer_names(config: Any, key: str) -> Iterator[str]:
    """Yield the layers' names in `input_layers` or `output_layers`, which nest as the outputs do."""
    waiting = [config.get(key, [])] if isinstance(config, dict) else []
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, list) and value and isinstance(value[0], str):
            yield value[0]
        elif isinstance(value, (list, dict)):
            waiting.extend(value.values() if isinstance(value, dict) else value)


# A configuration may ask for SLACK times the numbers in the file (quantised weights share bytes, and layers
# without a formula are estimated), plus FREE numbers, which any model may have.
EXACT_SLACK, EXACT_FREE = 4, 2**20
ESTIMATE_SLACK, ESTIMATE_FREE = 16, 2**22

_ESTIMATED = re.compile(
    r"Attention|AdditiveAttention|(Simple)?RNN(Cell)?|LSTM(Cell)?|GRU(Cell)?|ConvLSTM[123]D|GroupQueryAttention"
)
_WINDOW = re.compile("kernel|patch_size|window")
_NO_LENGTH = {"seed", "axis", "axes", "shared_object_id", "factor", "trainable", "name"}


def find_oversized_layers(configuration: Configuration, available: int) -> list[str]:
    """Return a sentence on each layer that asks for far more numbers than the file has `available`."""
    exact: dict[object, tuple[int, Layer]] = {}
    estimated: dict[object, tuple[int, Layer]] = {}
    problems = []
    for number, layer in enumerate(configuration.layers):
        try:
            count, is_exact = count_layer_numbers(layer)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError):
            problems.append(f"{layer} does not say which shapes it was built for.")
            continue
        key = number if layer.shared is None else str(layer.shared)  # a shared object counts once
        counts = exact if is_exact else estimated
        counts[key] = max(counts.get(key, (0, layer)), (count, layer), key=lambda pair: pair[0])
    for counts, slack, free in ((exact, EXACT_SLACK, EXACT_FREE), (estimated, ESTIMATE_SLACK, ESTIMATE_FREE)):
        if sum(count for count, _ in counts.values()) > slack * available + free:
            count, layer = max(counts.values(), key=lambda pair: pair[0])
            problems.append(
                f"{layer} alone would hold about {count:,} numbers; the whole file has {available:,}."
            )
    return problems


def count_layer_numbers(layer: Layer) -> tuple[int, bool]:
    """Return how many numbers a layer holds, and whether that count is exact or an estimate.

    Raises:
        KeyError, TypeError, ValueError, IndexError, AttributeError: a setting or a shape is missing.
    """
    if layer.module == "keras.layers":
        formula = _FORMULAS.get(layer.kind)
        if formula is None:
            return (_estimate(layer), False) if _ESTIMATED.fullmatch(layer.kind) else (0, True)
        return formula(layer.config, layer.built.get("input_shape", layer.built)), True
    if layer.kind == "SavedModelLayer":
        variables = layer.config["facts"]["variables"]
        return sum(math.prod(map(_read_length, shape)) for _, shape, _, _ in variables), True
    return (0, True) if layer.module.startswith("keras.src.ops.") else (_estimate(layer), False)


def _count_convolution(config: dict[str, Any], shape: Any) -> int:
    """Count for a convolution of any rank, also for a depthwise and a separable one."""
    channels = _read_length(shape[1] if config.get("data_format") == "channels_first" else shape[-1])
    size = config["kernel_size"]
    kernel = math.prod(map(_read_length, size if isinstance(size, list) else [size] * (len(shape) - 2)))
    if "depth_multiplier" in config:
        inner = channels * _read_length(config["depth_multiplier"])
        return inner * (kernel + 1) + (inner + 1) * _read_length(config.get("filters") or 0)
    groups = max(1, _read_length(config.get("groups", 1)))  # Keras itself refuses 0 groups
    return (channels * kernel // groups + 1) * _read_length(config["filters"])


def _count_dense(config: dict[str, Any], shape: Any) -> int:
    return _read_length(config["units"]) * (_read_length(shape[-1]) + 1)


def _count_einsum(config: dict[str, Any], shape: Any) -> int:
    """Count for an EinsumDense; a letter of the kernel is as long as it is in the input or in the output."""
    source, kernel, result = re.split(",|->", config["equation"])
    output = _as_list(config["output_shape"])
    lengths = {
        **dict(zip(reversed(result.replace(".", "")), reversed(output), strict=False)),
        **dict(zip(reversed(source.replace(".", "")), reversed(shape), strict=False)),
    }
    bias = math.prod(_read_length(side) for side in output if side is not None)
    return math.prod(_read_length(lengths[letter]) for letter in kernel) + bias


def _count_embedding(config: dict[str, Any], shape: Any) -> int:
    return _read_length(config["input_dim"]) * _read_length(config["output_dim"])


def _count_normalization(config: dict[str, Any], shape: Any) -> int:
    axes = [] if config["axis"] is None else _as_list(config["axis"])
    return 4 * math.prod(_read_length(shape[axis]) for axis in axes)


def _count_slopes(config: dict[str, Any], shape: Any) -> int:
    shared = config.get("shared_axes") or ()
    return math.prod(_read_length(side) for axis, side in enumerate(shape) if axis and axis not in shared)


def _count_attention(config: dict[str, Any], shapes: Any) -> int:
    depth = max(_read_length(config["key_dim"]), _read_length(config.get("value_dim") or 0))
    channels = max(_read_length(shape[-1]) for shape in shapes.values() if shape)
    return 4 * _read_length(config["num_heads"]) * depth * (channels + 1)


_FORMULAS: dict[str, Callable[[dict[str, Any], Any], int]] = {
    "Dense": _count_dense,
    "EinsumDense": _count_einsum,
    "Embedding": _count_embedding,
    "ReversibleEmbedding": _count_embedding,
    "MultiHeadAttention": _count_attention,
    "PReLU": _count_slopes,
    **{f"{kind}Normalization": _count_normalization for kind in ("", "Batch", "Group", "Layer", "RMS")},
    **{
        f"{variant}{word}{rank}D{direction}": _count_convolution
        for variant in ("", "Depthwise", "Separable")
        for word in ("Conv", "Convolution")
        for rank in (1, 2, 3)
        for direction in ("", "Transpose")
    },
}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _read_length(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"not a length: {value}")
    return value


def _estimate(layer: Layer) -> int:
    """Estimate for a layer without a formula: its two largest lengths, times the size of its kernel."""
    lengths = sorted(_iterate_lengths({**layer.config, "built": layer.built}))[-2:]
    windows = [
        max(_iterate_lengths(value), default=1) for key, value in layer.config.items() if _WINDOW.search(key)
    ]
    return math.prod(lengths) * max(windows, default=1) ** 2


def _iterate_lengths(value: Any) -> Iterator[int]:
    """Yield the integers in settings and shapes that may be lengths, but not those of layers inside."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield value
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict) and "class_name" not in value:
            waiting.extend(item for key, item in value.items() if key not in _NO_LENGTH)
