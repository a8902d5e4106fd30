"""A frozen network as engines and the store see it: its name, its size, and what runs it."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.features.device import accelerator, keras_name
from regraft.features.openvino import Precision, name_of

if TYPE_CHECKING:
    import keras

__all__ = ["Network", "converts", "engine_name", "fingerprint"]

# In a network's configuration: what refers to layers by name, and what inference does not look at.
_REFERENCES = ("keras_history", "input_layers", "output_layers")
_UNSEEN = ("name", "trainable", "compile_config")


class Network:
    """A network of Keras from RGB pixels (b, size, size, 3) in 0..255 to a dictionary of named tensors."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    @classmethod
    def of(cls, given: keras.Model | Network) -> Network:
        """A model as a `Network`, which stays what it is."""
        return given if isinstance(given, Network) else cls(given)

    @property
    def model(self) -> keras.Model:
        """The network itself."""
        return self._model

    @cached_property
    def fingerprint(self) -> str:
        """See the function of that name."""
        return fingerprint(self.model)

    @property
    def size(self) -> int:
        """Pixels a side of the images it sees."""
        return int(self.model.inputs[0].shape[1])

    def engine_name(self, precision: Precision = "f32") -> str:
        """The engine and precision that are tried first, for the keys of what they compute."""
        return engine_name(precision)


def converts() -> bool:
    """Return whether OpenVINO is installed, so that networks can be converted for it."""
    return name_of("f32") is not None


def engine_name(precision: Precision = "f32") -> str:
    """The engine and precision that `make_engine` tries first, for the keys of what it computes."""
    name = None if accelerator() or not converts() else name_of(precision)
    return name or keras_name(precision)


def fingerprint(network: keras.Model) -> str:
    """A name for what a network computes: 32 hex digits of its graph and its weights.

    Neither the names of its layers nor what only training looks at (`trainable` flags, the state of random
    numbers) change it: the same network has the same fingerprint in every process and under every plan.

    Args:
        network: a Functional model, run in inference mode.

    Example:
        >>> import keras
        >>> image = keras.Input((8, 8, 3))
        >>> one, same = (keras.Model(image, keras.layers.MaxPooling2D()(image)) for _ in range(2))
        >>> fingerprint(one) == fingerprint(same)
        True
    """
    import keras

    mix = hashlib.blake2b(digest_size=16)
    config = _nameless(network.get_config(), {})
    mix.update(json.dumps(config, sort_keys=True, default=str).encode())
    for variable in network.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        mix.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
    return mix.hexdigest()


def _nameless(config: Any, place: dict[str, str]) -> Any:
    """A configuration whose layers are named by their place in the network that holds them.

    Names are numbered by a counter of the process. They stand under the keys below and nowhere else: the
    name "relu" is not the activation "relu".
    """
    if isinstance(config, (list, tuple)):
        return [_nameless(item, place) for item in config]
    # The name of a precision policy is what it is; every other name is only a name.
    if not isinstance(config, dict) or str(config.get("class_name")).endswith("DTypePolicy"):
        return config
    if isinstance(config.get("layers"), list):
        place = {layer.get("name", ""): f"#{number}" for number, layer in enumerate(config["layers"])}
    return {
        key: _replaced(value, place) if key in _REFERENCES else _nameless(value, place)
        for key, value in config.items()
        if key not in _UNSEEN
    }


def _replaced(reference: Any, place: dict[str, str]) -> Any:
    """References to layers, lists and dictionaries of `[name, node, tensor]`, by place."""
    if isinstance(reference, (list, tuple)):
        return [_replaced(item, place) for item in reference]
    if isinstance(reference, dict):
        return {key: _replaced(value, place) for key, value in reference.items()}
    return place.get(reference, reference) if isinstance(reference, str) else reference
