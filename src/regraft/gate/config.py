"""The configuration of a model, read without building anything: its layers, and what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from regraft.gate.allowed import MODELS, why_not, why_not_function
from regraft.gate.archive import quoted

__all__ = ["Configuration", "Layer", "read_config"]

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
    """Read the JSON text of a model; `own` as in `regraft.gate.allowed.why_not`."""
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
