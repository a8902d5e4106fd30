"""Frozen Keras networks: their fingerprints, the names of the engines that run them, and Keras' own engine.

Nothing here names a backend. Keras' engine handles batches alike on every device, so a processor shows what
a GPU does, only more slowly.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import shorten_error
from regraft.features.openvino import BATCH, Outputs, Precision, openvino_name, pad_batch
from regraft.system.console import TERMINAL, Reporter

if TYPE_CHECKING:
    import keras

__all__ = [
    "KerasEngine",
    "Network",
    "can_convert_to_openvino",
    "copy_in_bf16",
    "engine_name",
    "find_accelerator",
    "fingerprint",
    "keras_engine_name",
]

ACCELERATOR_BATCH = 64  # images at a time: fewer leave most of a GPU idle
AHEAD = 2  # batches that wait, ready, for the device

# Keys of a network's configuration that refer to layers by name, and keys that do not affect inference.
_REFERENCES = ("keras_history", "input_layers", "output_layers")
_WITHOUT_EFFECT = ("name", "trainable", "compile_config")


class Network:
    """A Keras network from RGB pixels (b, size, size, 3) in 0..255 to a dictionary of named tensors."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    @classmethod
    def from_model(cls, model: keras.Model | Network) -> Network:
        """Wrap a model; return a `Network` unchanged."""
        return model if isinstance(model, Network) else cls(model)

    @cached_property
    def fingerprint(self) -> str:
        """The name of what the network computes; see the function `fingerprint`."""
        return fingerprint(self.model)

    @property
    def size(self) -> int:
        """The side of the images it takes, in pixels."""
        return int(self.model.inputs[0].shape[1])

    def engine_name(self, precision: Precision = "f32") -> str:
        """Return the name of the engine that is tried first; see the function `engine_name`."""
        return engine_name(precision)


# --- names for the store's keys


def can_convert_to_openvino() -> bool:
    """Return whether OpenVINO is installed, so that networks can be converted for it."""
    return openvino_name("f32") is not None


def engine_name(precision: Precision = "f32") -> str:
    """Return the name, for the store's keys, of the engine that `make_engine` tries first."""
    name = None if find_accelerator() or not can_convert_to_openvino() else openvino_name(precision)
    return name or keras_engine_name(precision)


def keras_engine_name(precision: Precision) -> str:
    """Return the name of Keras' engine: Keras' version, its backend, the device and the precision."""
    import keras

    return f"keras {keras.__version__} {keras.backend.backend()} {find_accelerator() or 'cpu'} {precision}"


def find_accelerator() -> str:
    """Return the device of Keras' backend, "gpu" or "tpu"; the empty string if it is the processor."""
    import keras

    try:
        kind = keras.distribution.list_devices()[0].partition(":")[0]
    except AttributeError:  # Keras lists no devices of PyTorch's
        return ""
    return "" if kind == "cpu" else kind


def fingerprint(network: keras.Model) -> str:
    """Return a name for what a network computes: 32 hex digits of its graph and its weights.

    It does not depend on the names of layers, nor on what only training looks at (`trainable` flags, the
    state of random numbers): the same network has the same fingerprint in every process and under every plan.

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

    digest = hashlib.blake2b(digest_size=16)
    config = _drop_names(network.get_config(), {})
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for variable in network.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        digest.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()


def _drop_names(config: Any, positions: dict[str, str]) -> Any:
    """Return a configuration that names layers by their position in the network that holds them.

    A counter of the process numbers their names. They stand only under the keys above: the layer's name
    "relu" is not the activation "relu".
    """
    if isinstance(config, (list, tuple)):
        return [_drop_names(item, positions) for item in config]
    # The name of a precision policy has a meaning; every other name is only a name.
    if not isinstance(config, dict) or str(config.get("class_name")).endswith("DTypePolicy"):
        return config
    if isinstance(config.get("layers"), list):
        positions = {layer.get("name", ""): f"#{number}" for number, layer in enumerate(config["layers"])}
    return {
        key: _replace_names(value, positions) if key in _REFERENCES else _drop_names(value, positions)
        for key, value in config.items()
        if key not in _WITHOUT_EFFECT
    }


def _replace_names(reference: Any, positions: dict[str, str]) -> Any:
    """Replace the names in references to layers: lists and dictionaries of `[name, node, tensor]`."""
    if isinstance(reference, (list, tuple)):
        return [_replace_names(item, positions) for item in reference]
    if isinstance(reference, dict):
        return {key: _replace_names(value, positions) for key, value in reference.items()}
    return positions.get(reference, reference) if isinstance(reference, str) else reference


# --- Keras as an engine


class KerasEngine:
    """Keras' own `predict`, compiled once for one batch size: by XLA if there is a GPU or TPU.

    Pixels go to the device as bytes and are converted there. While it computes a batch, the next ones are
    decoded.

    Args:
        network: float RGB pixels (b, size, size, 3) in 0..255 -> dictionary of named tensors.
        precision: "bf16" for Keras' mixed_bfloat16 in a copy of the network. "f32" is the network as it was
            built; GPUs that multiply float32 in TF32 do so here too.

    Attributes:
        name: Keras, backend, device and precision, for the store's keys.
        batch: the most images that a batch given to `run` may have.
    """

    def __init__(
        self, network: keras.Model, precision: Precision = "f32", reporter: Reporter = TERMINAL
    ) -> None:
        self.name = keras_engine_name(precision)
        self.batch = ACCELERATOR_BATCH if find_accelerator() else BATCH
        self._network = network if precision == "f32" else copy_in_bf16(network)
        black = np.zeros((1, *network.inputs[0].shape[1:]), np.uint8)
        try:
            self._predict(black)
        except Exception as error:  # XLA lacks some operations
            if not self._network.jit_compile:
                raise
            reporter.info(
                f"XLA cannot compile this network ({shorten_error(error, most=160)}): "
                "it runs without, more slowly."
            )
            self._network.compile(jit_compile=False)
            self._predict(black)

    def run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order; take batches as the device needs them."""
        waiting: deque[Future[Outputs]] = deque()
        with ThreadPoolExecutor(1) as device:
            for batch in batches:
                waiting.append(device.submit(self._predict, batch))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _predict(self, batch: NDArray[np.uint8]) -> Outputs:
        outputs = self._network.predict_on_batch(pad_batch(batch, self.batch))
        return {name: np.asarray(value, np.float32)[: len(batch)] for name, value in outputs.items()}


def copy_in_bf16(network: keras.Model) -> keras.Model:
    """Copy a network so that it multiplies in bfloat16; its weights, and sums over them, stay float32.

    Keras' own layers are copied, also those in nested models. Others may need more than their configuration
    to be built: they are shared, and compute as before.

    Example:
        >>> import keras
        >>> image = keras.Input((8, 8, 3))
        >>> network = keras.Model(image, {"map": keras.layers.Conv2D(4, 3)(image)})
        >>> copy_in_bf16(network).output["map"].dtype, network.output["map"].dtype
        ('bfloat16', 'float32')
    """

    import keras

    def copy_layer(layer: Any) -> Any:
        if not type(layer).__module__.startswith("keras"):
            return layer
        return type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})

    copy = keras.models.clone_model(network, clone_function=copy_layer, recursive=True)
    copy.set_weights(network.get_weights())
    return copy
