"""A frozen network as engines and the store see it, and Keras as an engine: compiled, in f32 or bf16.

Nothing here names a backend. Which device Keras computes on makes no difference to the way batches go, so a
processor shows what a GPU does, only more slowly.
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

from regraft.errors import brief
from regraft.features.openvino import BATCH, Outputs, Precision, name_of, padded
from regraft.system.console import TERMINAL, Reporter

if TYPE_CHECKING:
    import keras

__all__ = [
    "KerasEngine",
    "Network",
    "accelerator",
    "converts",
    "engine_name",
    "fingerprint",
    "in_bf16",
    "keras_name",
]

# In a network's configuration: what refers to layers by name, and what inference does not look at.
_REFERENCES = ("keras_history", "input_layers", "output_layers")
_UNSEEN = ("name", "trainable", "compile_config")


class Network:
    """A network of Keras from RGB pixels (b, size, size, 3) in 0..255 to a dictionary of named tensors."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    @classmethod
    def of(cls, given: keras.Model | Network) -> Network:
        """A model as a `Network`, which stays what it is."""
        return given if isinstance(given, Network) else cls(given)

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


ON_ACCELERATOR = 64  # images at a time: fewer leave most of a GPU idle
AHEAD = 2  # batches that wait for the device, ready


def accelerator() -> str:
    """What Keras' backend computes on where that is not the processor: "gpu" or "tpu"; else empty."""
    import keras

    try:
        kind = keras.distribution.list_devices()[0].partition(":")[0]
    except AttributeError:  # of PyTorch's devices Keras lists none
        return ""
    return "" if kind == "cpu" else kind


def keras_name(precision: Precision) -> str:
    """Keras, its backend, the device and a precision, for the keys of what they compute."""
    import keras

    return f"keras {keras.__version__} {keras.backend.backend()} {accelerator() or 'cpu'} {precision}"


class KerasEngine:
    """Keras' own `predict`, compiled once for one size of batch: by XLA where there is a GPU or TPU.

    Pixels go to the device as bytes and become numbers there. While it computes a batch, the ones after it
    are taken from whoever decodes.

    Args:
        network: float RGB pixels (b, size, size, 3) in 0..255 to a dictionary of named tensors.
        precision: "bf16" for Keras' mixed_bfloat16 in a copy of the network. "f32" is the network as it was
            built; GPUs that multiply float32 in TF32 do so here too.

    Attributes:
        name: Keras, backend, device and precision, for the keys of what it computes.
        batch: the most images that a batch given to `run` may have.
    """

    def __init__(
        self, network: keras.Model, precision: Precision = "f32", reporter: Reporter = TERMINAL
    ) -> None:
        self.name = keras_name(precision)
        self.batch = ON_ACCELERATOR if accelerator() else BATCH
        self._network = network if precision == "f32" else in_bf16(network)
        black = np.zeros((1, *network.inputs[0].shape[1:]), np.uint8)
        try:
            self._outputs(black)
        except Exception as error:  # XLA does not know every operation
            if not self._network.jit_compile:
                raise
            reporter.info(
                f"XLA cannot compile this network ({brief(error, most=160)}): it runs without, more slowly."
            )
            self._network.compile(jit_compile=False)
            self._outputs(black)

    def run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """The outputs of each batch, in order; batches are taken as the device comes to need them."""
        waiting: deque[Future[Outputs]] = deque()
        with ThreadPoolExecutor(1) as device:
            for batch in batches:
                waiting.append(device.submit(self._outputs, batch))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _outputs(self, batch: NDArray[np.uint8]) -> Outputs:
        outputs = self._network.predict_on_batch(padded(batch, self.batch))
        return {name: np.asarray(value, np.float32)[: len(batch)] for name, value in outputs.items()}


def in_bf16(network: keras.Model) -> keras.Model:
    """A copy of a network that multiplies in bfloat16; its weights, and sums over them, stay float32.

    Keras' own layers are copied, those within models too. Others, whose making may need more than their
    configuration, are shared and compute as they did.

    Example:
        >>> import keras
        >>> image = keras.Input((8, 8, 3))
        >>> network = keras.Model(image, {"map": keras.layers.Conv2D(4, 3)(image)})
        >>> in_bf16(network).output["map"].dtype, network.output["map"].dtype
        ('bfloat16', 'float32')
    """

    import keras

    def rougher(layer: Any) -> Any:
        if not type(layer).__module__.startswith("keras"):
            return layer
        return type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})

    copy = keras.models.clone_model(network, clone_function=rougher, recursive=True)
    copy.set_weights(network.get_weights())
    return copy
