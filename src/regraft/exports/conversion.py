"""Write the network of a run in the format of another runtime: from pixels, uint8, to named outputs."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import EnvironmentFault, ModelRefused, shorten_error
from regraft.exports.formats import Format
from regraft.exports.litert import write_litert
from regraft.exports.quantization import quantize_onnx, quantize_openvino
from regraft.exports.resizing import add_resizing_to_onnx, add_resizing_to_openvino, find_first_pass
from regraft.features.convert import convert
from regraft.features.openvino import list_names
from regraft.inference.bundle import Bundle
from regraft.inference.predict import name_outputs
from regraft.models.inner_outputs import ANSWERS, FEATURES
from regraft.system.backend import get_backend_name, require_backend
from regraft.system.imports import import_openvino

if TYPE_CHECKING:
    import keras

__all__ = ["require_writer", "write_network"]

OPSET = 18  # of ONNX: the first with antialiased resizing
OUTPUTS = (ANSWERS, FEATURES)

Images = Sequence[NDArray[np.uint8]]


def require_writer(kind: Format) -> None:
    """Check that Keras runs on the backend that writes a format.

    Raises:
        EnvironmentFault: it does not.
    """
    if not kind.needs_tensorflow:
        return
    require_backend()
    if (name := get_backend_name()) != "tensorflow":
        raise EnvironmentFault(
            f"An export to {kind.name} expects Keras to run on TensorFlow. Received: {name}. "
            "Set KERAS_BACKEND=tensorflow before Keras is imported."
        )


def write_network(
    bundle: Bundle, kind: Format, folder: Path, *, images: Images | None = None, any_size: bool = False
) -> None:
    """Write the network of a run to a folder.

    Args:
        bundle: the run; its head is a Keras layer.
        kind: the format.
        folder: the folder to write to.
        images: of training, (1, size, size, 3) each, to quantize the network with; None for float32.
        any_size: let the network take images of any size.

    Raises:
        ModelRefused: the format has no operation that the network needs.
    """
    write = {
        "openvino": _write_openvino,
        "onnx": _write_onnx,
        "litert": _write_litert,
        "savedmodel": _write_savedmodel,
        "keras": _write_keras,
    }[kind.name]
    size = bundle.image_size if any_size else None
    try:
        with warnings.catch_warnings():  # of names that Keras and its converters spell the old way
            warnings.simplefilter("ignore")
            write(bundle, folder / kind.model, images, size)
    except (EnvironmentFault, ModelRefused):
        raise
    except Exception as error:  # converters document no types for this
        raise ModelRefused(
            f"The network of {bundle.path} cannot be written as {kind.name}. The converter says: "
            f"{shorten_error(error)}"
        ) from error


# --- OpenVINO


def _write_openvino(bundle: Bundle, target: Path, images: Images | None, size: int | None) -> None:
    """Take the run's own graph, or convert the model; let it take bytes and name its outputs."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory(prefix="regraft-export-") as folder:
        source = bundle.graph
        if source is None:
            source = Path(folder) / "network.xml"
            convert(name_outputs(bundle.model, bundle.inner), source)
        model = openvino.Core().read_model(source)
        for result in model.get_results():
            if not set(list_names(result.output(0))) & set(OUTPUTS):
                model.remove_result(result)
        model.validate_nodes_and_infer_types()
        if images is not None:
            model = quantize_openvino(model, images)
        names = [list_names(result.output(0))[0] for result in model.get_results()]
        if size is None:
            model = _take_bytes(model)
        else:
            model = add_resizing_to_openvino(model, size, find_first_pass(bundle))
        for name, result in zip(names, model.get_results(), strict=True):
            result.output(0).get_tensor().set_names({name})
        openvino.save_model(model, target, compress_to_fp16=False)


def _take_bytes(model: Any) -> Any:
    """Return an OpenVINO model whose pixels are uint8 instead of float."""
    preparation = import_openvino().preprocess.PrePostProcessor(model)
    preparation.input().tensor().set_element_type(import_openvino().Type.u8)
    prepared = preparation.build()
    prepared.input().get_tensor().set_names({"pixels"})
    return prepared


# --- formats that Keras writes on TensorFlow


def _write_onnx(bundle: Bundle, target: Path, images: Images | None, size: int | None) -> None:
    exported = _make_exported(bundle)
    exported.export(
        target, format="onnx", input_signature=_make_signature(bundle), opset_version=OPSET, verbose=False
    )
    if images is not None:
        quantize_onnx(target, images)
    if size is not None:
        add_resizing_to_onnx(target, size, find_first_pass(bundle))


def _write_litert(bundle: Bundle, target: Path, images: Images | None, size: int | None) -> None:
    write_litert(_make_exported(bundle), target, _make_signature(bundle), images=images)


def _write_savedmodel(bundle: Bundle, target: Path, images: Images | None, size: int | None) -> None:
    _make_exported(bundle).export(
        target, format="tf_saved_model", input_signature=_make_signature(bundle), verbose=False
    )


def _write_keras(bundle: Bundle, target: Path, images: Images | None, size: int | None) -> None:
    shutil.copyfile(bundle.path / "model.keras", target)


def _make_exported(bundle: Bundle) -> keras.Model:
    """Return the network as a model that takes bytes and always infers.

    Keras traces a model without saying that it infers. After layers that resize, batch normalisation would
    then use the statistics of the batch.
    """
    import keras

    network = name_outputs(bundle.model, bundle.inner)

    class Exported(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="exported")
            self.network = network

        def call(self, pixels: Any) -> dict[str, Any]:
            outputs = self.network(keras.ops.cast(pixels, "float32"), training=False)
            return {name: outputs[name] for name in OUTPUTS if name in outputs}

    model = Exported()
    model(np.zeros((1, *network.inputs[0].shape[1:]), np.uint8))  # Keras exports only what has run
    return model


def _make_signature(bundle: Bundle) -> list[Any]:
    import keras

    shape = (None, *bundle.model.inputs[0].shape[1:])
    return [keras.InputSpec(shape=shape, dtype="uint8", name="pixels")]
