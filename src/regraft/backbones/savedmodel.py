"""A TensorFlow SavedModel for images: read, checked, and called in inference mode.

A SavedModel in the reusable format can train: it is callable and names its `trainable_variables`. Others, in
TensorFlow 1's Hub format or with signatures only, compute features and stay frozen.

This is one of the few modules that name a backend. The format is documented by TensorFlow Hub under "Reusable
SavedModels" and "Common SavedModel APIs for Image Tasks". The package `tensorflow_hub` is not needed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras

from regraft.errors import EnvironmentFault, ModelRefused, UsageError, shorten_error
from regraft.system.files import hash_file

__all__ = [
    "Module",
    "SavedModelFacts",
    "describe_module",
    "digest_folder",
    "freeze_graph",
    "import_tensorflow",
    "is_savedmodel",
    "read_module",
]

DEFAULT_SIZE = 224  # pixels a side where neither the module nor the user gives a size
_SIGNATURES = ("serving_default", "default")  # the main one in TensorFlow 2 and in TensorFlow 1's Hub format


@dataclass(frozen=True)
class SavedModelFacts:
    """The description of a SavedModel, which does not need TensorFlow.

    Args:
        digest: SHA-256 of its files, in hex.
        image_size: pixels a side at which it is used.
        features: shape of the output for one image: `(channels,)`, `(tokens, channels)` or
            `(height, width, channels)`.
        variables: name, shape, dtype and whether it trains, for each of its variables.
        frozen_because: why none of it can train; "" where it can.
    """

    digest: str
    image_size: int
    features: tuple[int, ...]
    variables: tuple[tuple[str, tuple[int, ...], str, bool], ...]
    frozen_because: str = ""


@dataclass(frozen=True)
class Module:
    """A SavedModel that TensorFlow has loaded, as a plain object, so that Keras does not track its parts."""

    folder: Path
    root: Any  # keeps the module's resources alive
    run: Callable[[Any], Any]
    shape: tuple[int | None, ...]  # of the images that it takes
    dtype: str
    variables: tuple[Any, ...]
    trainable: tuple[Any, ...]
    losses: tuple[Callable[[], Any], ...]
    frozen_because: str
    owner: Any = None  # removes the folder, where that is a temporary copy, together with the layer


def is_savedmodel(folder: Path) -> bool:
    """Return whether a folder holds a SavedModel."""
    return any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))


def import_tensorflow() -> Any:
    """Return the module `tensorflow`; EnvironmentFault where Keras runs on another backend."""
    if keras.backend.backend() != "tensorflow":
        raise EnvironmentFault(
            f"A SavedModel runs in TensorFlow; Keras runs on {keras.backend.backend()} here. Set "
            'KERAS_BACKEND to tensorflow, which pip install "regraft[cpu]" brings.'
        )
    import tensorflow

    return tensorflow


def digest_folder(folder: Path) -> str:
    """Return the SHA-256 of a folder's files and their names, in hex."""
    mix = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        mix.update(f"{file.relative_to(folder).as_posix()} {hash_file(file)}\n".encode())
    return mix.hexdigest()


def read_module(folder: Path, owner: Any = None) -> Module:
    """Load a SavedModel for images. From then on its graph, a program, can do anything.

    Args:
        folder: the folder that holds `saved_model.pb`.
        owner: an object that lives as long as the module.

    Raises:
        ModelRefused: the SavedModel is damaged, or does not take RGB images.
        EnvironmentFault: Keras does not run on TensorFlow.
    """
    tf = import_tensorflow()
    is_hub1 = (folder / "tfhub_module.pb").exists()
    try:
        # TensorFlow 1's Hub format keeps a second graph, for training, under the tag "train".
        root = tf.saved_model.load(str(folder), tags=[] if is_hub1 else None)
    except Exception as fault:  # TensorFlow documents no type for a SavedModel that it cannot read
        raise ModelRefused(f"{folder} cannot be read as a SavedModel: {shorten_error(fault)}") from fault
    calls = root.__call__.concrete_functions if callable(root) else ()
    if calls:
        run, spec = _open_callable(folder, root, calls)
        trainable = tuple(getattr(root, "trainable_variables", ()))
        frozen_because = "" if trainable else "the SavedModel names no trainable variables"
    else:
        run, spec, calls = _open_signature(folder, root)
        kind = "in TensorFlow 1's Hub format" if is_hub1 else "a SavedModel with signatures only"
        trainable, frozen_because = (), f"it is {kind}, which cannot be fine-tuned"
    return Module(
        folder=folder,
        root=root,
        run=lambda pixels: _select_tensor(run(pixels), folder),
        shape=tuple(spec.shape) if spec.shape.rank is not None else (None,) * 4,
        dtype=spec.dtype.name,
        variables=_list_variables(getattr(root, "variables", ()), calls),
        trainable=trainable,
        losses=tuple(getattr(root, "regularization_losses", None) or ()) if trainable else (),
        frozen_because=frozen_because,
        owner=owner,
    )


def _open_callable(folder: Path, root: Any, calls: Any) -> tuple[Callable[[Any], Any], Any]:
    """Return how to call a module, and the input of the first of its traces that takes images."""
    specs = [_get_first_input(call.structured_input_signature) for call in calls]
    fitting = [spec for spec in specs if _is_image(spec)]
    if not fitting:
        raise _make_refusal(folder, f"it takes {specs[0]}")
    mode = {"training": False} if "training" in root.__call__.function_spec.arg_names else {}
    return partial(root, **mode), fitting[0]


def _open_signature(folder: Path, root: Any) -> tuple[Callable[[Any], Any], Any, list[Any]]:
    """Return how to call a module's main signature, its input, and the function whose variables it uses."""
    names = [name for name in _SIGNATURES if name in root.signatures] or list(root.signatures)
    if not names:
        raise _make_refusal(folder, "it cannot be called and has no signature")
    function = root.signatures[names[0]]
    inputs = function.structured_input_signature[1]
    if len(inputs) != 1 or not all(map(_is_image, inputs.values())):
        raise _make_refusal(folder, f"its signature {names[0]} takes {list(inputs.values())}")
    ((name, spec),) = inputs.items()
    return lambda pixels: function(**{name: pixels}), spec, [function]


def _list_variables(named: Any, calls: Any) -> tuple[Any, ...]:
    """Return the numeric variables that a module names, then any others that its calls use."""
    variables = [*named, *(variable for call in calls for variable in call.variables)]
    unique = {id(variable): variable for variable in variables}
    return tuple(v for v in unique.values() if v.dtype.is_floating or v.dtype.is_integer or v.dtype.is_bool)


def _get_first_input(signature: Any) -> Any:
    positional, named = signature
    return (*positional, *named.values(), None)[0]


def _is_image(spec: Any) -> bool:
    if not hasattr(spec, "dtype") or not spec.dtype.is_floating:
        return False
    shape = spec.shape
    return shape.rank is None or (shape.rank == 4 and shape[3] in (None, 3))


def _select_tensor(output: Any, folder: Path) -> Any:
    """Return an output's tensor: itself, the only one of a dictionary, or the one called "default"."""
    if not isinstance(output, dict):
        return output
    if len(output) != 1 and "default" not in output:
        raise _make_refusal(folder, f"it gives {len(output)} tensors: {', '.join(sorted(output))}")
    return output["default"] if "default" in output else next(iter(output.values()))


def _choose_size(module: Module, image_size: int | None) -> int:
    height, width = module.shape[1:3]
    if None not in (height, width) and height != width:
        raise UsageError(f"A backbone takes square images. Received: {module.folder}, {height} x {width}.")
    fixed = height or width
    if fixed is not None and image_size not in (None, fixed):
        raise UsageError(
            f"image_size: {module.folder} takes {fixed} and nothing else. Received: {image_size}."
        )
    return fixed or image_size or DEFAULT_SIZE


def _measure_output(module: Module, size: int) -> tuple[int, ...]:
    """Return the shape of the output for one image by running it, since graphs often leave it open."""
    black = keras.ops.zeros((1, size, size, 3), module.dtype)
    try:
        output = module.run(black)
    except ModelRefused:
        raise
    except Exception as fault:  # a size that the graph cannot take, or no trace for inference
        raise UsageError(
            f"image_size: {module.folder} cannot take {size} pixels a side. "
            f"TensorFlow says: {shorten_error(fault)}"
        ) from fault
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) not in (2, 3, 4) or shape[0] != 1 or not math.prod(shape):
        raise _make_refusal(module.folder, f"to one image it gives {shape or type(output).__name__}")
    return tuple(int(side) for side in shape[1:])


def describe_module(module: Module, digest: str, image_size: int | None) -> SavedModelFacts:
    """Describe a module.

    Args:
        module: from `read_module`.
        digest: `digest_folder` of its folder.
        image_size: pixels a side; None for the module's own, or 224 where it has none.
    """
    size = _choose_size(module, image_size)
    trainable = {id(variable) for variable in module.trainable}
    variables = tuple(
        (
            str(variable.name).partition(":")[0].replace("/", "_"),
            tuple(int(side) for side in variable.shape),
            str(variable.dtype.name),
            id(variable) in trainable,
        )
        for variable in module.variables
    )
    return SavedModelFacts(digest, size, _measure_output(module, size), variables, module.frozen_because)


def _make_refusal(folder: Path, received: str) -> ModelRefused:
    return ModelRefused(
        f"{folder} is not an image model. Expected one that maps float RGB images (batch, height, width, 3) "
        f"to one vector, tokens or map for each image. Received: {received}."
    )


def freeze_graph(network: keras.Model) -> bytes:
    """Return a network that holds SavedModels as a TensorFlow graph whose weights are constants.

    OpenVINO reads such a graph natively. A stateless scope replaces the variables by constants, which is far
    quicker to parse than variables that are traced one by one.

    Args:
        network: a network from pixels or other tensors to a dictionary of tensors. The batch size stays free.
            Inputs are named `in_0`, `in_1` and so on, outputs `out_` and their name.
    """
    import tensorflow as tf

    values = [(variable, keras.ops.convert_to_numpy(variable)) for variable in network.variables]

    def compute(*inputs: Any) -> Any:
        mapping = [(variable, tf.constant(value)) for variable, value in values]
        with keras.StatelessScope(state_mapping=mapping):
            outputs = network(inputs if len(inputs) > 1 else inputs[0], training=False)
        return [tf.identity(value, name=f"out_{name}") for name, value in outputs.items()]

    signature = [
        tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=f"in_{number}")
        for number, tensor in enumerate(network.inputs)
    ]
    function = tf.function(compute, autograph=False).get_concrete_function(*signature)
    if any(value.dtype == tf.resource for value in function.captured_inputs):
        # A SavedModel reads its own variables, not those of the scope.
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        function = convert_variables_to_constants_v2(function)
    graph = function.graph.as_graph_def()
    nodes = {node.name: node for node in graph.node}
    for value, placeholder in function.graph.captures:  # tensors that layers hold, such as a mean to subtract
        node = nodes[placeholder.op.name]
        node.op = "Const"
        node.attr.clear()
        node.attr["dtype"].type = value.dtype.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    serialized: bytes = graph.SerializeToString()
    return serialized
