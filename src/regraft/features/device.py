"""A network run by Keras on the device of its backend: compiled, in f32 or bf16, batches fed ahead.

Nothing here names a backend. Which device that is makes no difference to the way batches go, so a processor
shows what a GPU does, only more slowly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.console import TERMINAL, Reporter
from regraft.errors import brief
from regraft.features.openvino import BATCH, Outputs, Precision, padded

if TYPE_CHECKING:
    import keras

__all__ = ["KerasEngine", "accelerator", "in_bf16", "keras_name"]

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
