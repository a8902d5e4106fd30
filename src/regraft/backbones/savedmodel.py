"""A TensorFlow SavedModel of images: read, checked, and called in inference mode.

What can train is a SavedModel in the reusable format: it is callable and names its `trainable_variables`.
Others, in TensorFlow 1's Hub format or with signatures only, compute features and stay frozen.

One of the few modules that know a backend. Format: "Reusable SavedModels" and "Common SavedModel APIs for
Image Tasks" of TensorFlow Hub's documentation. Nothing here needs the package `tensorflow_hub`.
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

from regraft.errors import EnvironmentFault, ModelRefused, UsageError, brief

__all__ = [
    "Facts",
    "Module",
    "digest_of",
    "facts_of",
    "freeze_graph",
    "is_savedmodel",
    "read_module",
    "tensorflow",
]

DEFAULT_SIZE = 224  # pixels a side where neither the module nor the user says
_SIGNATURES = ("serving_default", "default")  # TensorFlow 2's and TensorFlow 1 Hub's word for the main one


@dataclass(frozen=True)
class Facts:
    """What a SavedModel is, without TensorFlow.

    Args:
        digest: SHA-256 of its files, in hex.
        image_size: pixels a side it is used at.
        features: shape of the answer to one image: `(channels,)`, `(tokens, channels)` or
            `(height, width, channels)`.
        variables: name, shape, dtype and whether it trains, of each of its variables.
        frozen_because: why nothing of it can train; "" where it can.
    """

    digest: str
    image_size: int
    features: tuple[int, ...]
    variables: tuple[tuple[str, tuple[int, ...], str, bool], ...]
    frozen_because: str = ""


@dataclass(frozen=True)
class Module:
    """A SavedModel in TensorFlow's hands. A plain object, so that Keras does not look into it."""

    folder: Path
    root: Any  # keeps the module's resources alive
    run: Callable[[Any], Any]
    shape: tuple[int | None, ...]  # of the images it takes
    dtype: str
    variables: tuple[Any, ...]
    trainable: tuple[Any, ...]
    losses: tuple[Callable[[], Any], ...]
    frozen_because: str
    keeper: Any = None  # removes the folder with the layer, where the folder is a copy


def is_savedmodel(folder: Path) -> bool:
    """Whether a folder holds a SavedModel."""
    return any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))


def tensorflow() -> Any:
    """The module `tensorflow`; EnvironmentFault where Keras runs on something else."""
    if keras.backend.backend() != "tensorflow":
        raise EnvironmentFault(
            f"A SavedModel runs in TensorFlow; Keras runs on {keras.backend.backend()} here. Set "
            "KERAS_BACKEND to "
            'tensorflow, which pip install "regraft[cpu]" brings.'
        )
    import tensorflow

    return tensorflow


def digest_of(folder: Path) -> str:
    """SHA-256 of a folder's files and their names, in hex."""
    mix = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            held = hashlib.file_digest(stream, "sha256").hexdigest()
        mix.update(f"{file.relative_to(folder).as_posix()} {held}\n".encode())
    return mix.hexdigest()


def read_module(folder: Path, keeper: Any = None) -> Module:
    """A SavedModel of images, loaded; its graph can then do what it likes.

    Args:
        folder: holds `saved_model.pb`.
        keeper: is kept as long as the module is.

    Raises:
        ModelRefused: it is damaged, or takes no RGB images.
        EnvironmentFault: Keras does not run on TensorFlow.
    """
    tf = tensorflow()
    hub1 = (folder / "tfhub_module.pb").exists()
    try:
        # TensorFlow 1's Hub format keeps a second graph, for training, under the tag "train".
        root = tf.saved_model.load(str(folder), tags=[] if hub1 else None)
    except Exception as fault:  # whatever TensorFlow stumbles over, the folder is no SavedModel it can read
        raise ModelRefused(f"{folder} cannot be read as a SavedModel: {brief(fault)}") from fault
    calls = root.__call__.concrete_functions if callable(root) else ()
    if calls:
        run, spec = _reusable(folder, root, calls)
        trainable = tuple(getattr(root, "trainable_variables", ()))
        frozen_because = "" if trainable else "the SavedModel names no trainable variables"
    else:
        run, spec, calls = _signature_only(folder, root)
        kind = "in TensorFlow 1's Hub format" if hub1 else "a SavedModel with signatures only"
        trainable, frozen_because = (), f"it is {kind}, which cannot be fine-tuned"
    return Module(
        folder=folder,
        root=root,
        run=lambda pixels: _one(run(pixels), folder),
        shape=tuple(spec.shape) if spec.shape.rank is not None else (None,) * 4,
        dtype=spec.dtype.name,
        variables=_variables(getattr(root, "variables", ()), calls),
        trainable=trainable,
        losses=tuple(getattr(root, "regularization_losses", None) or ()) if trainable else (),
        frozen_because=frozen_because,
        keeper=keeper,
    )


def _reusable(folder: Path, root: Any, calls: Any) -> tuple[Callable[[Any], Any], Any]:
    """Find how a module is called, and what it takes: what the first of its traces for images takes."""
    specs = [_first(call.structured_input_signature) for call in calls]
    fitting = [spec for spec in specs if _is_image(spec)]
    if not fitting:
        raise _no_image_model(folder, f"it takes {specs[0]}")
    mode = {"training": False} if "training" in root.__call__.function_spec.arg_names else {}
    return partial(root, **mode), fitting[0]


def _signature_only(folder: Path, root: Any) -> tuple[Callable[[Any], Any], Any, list[Any]]:
    """Find the signature that is called, what it takes, and the function whose variables it uses."""
    names = [name for name in _SIGNATURES if name in root.signatures] or list(root.signatures)
    if not names:
        raise _no_image_model(folder, "it can neither be called nor has it a signature")
    function = root.signatures[names[0]]
    inputs = function.structured_input_signature[1]
    if len(inputs) != 1 or not all(map(_is_image, inputs.values())):
        raise _no_image_model(folder, f"its signature {names[0]} takes {list(inputs.values())}")
    ((given, spec),) = inputs.items()
    return lambda pixels: function(**{given: pixels}), spec, [function]


def _variables(named: Any, calls: Any) -> tuple[Any, ...]:
    """The variables a module names, then those that its calls use besides; each once, numbers only."""
    everything = [*named, *(variable for call in calls for variable in call.variables)]
    found = {id(variable): variable for variable in everything}
    return tuple(v for v in found.values() if v.dtype.is_floating or v.dtype.is_integer or v.dtype.is_bool)


def _first(signature: Any) -> Any:
    positional, named = signature
    return (*positional, *named.values(), None)[0]


def _is_image(spec: Any) -> bool:
    if not hasattr(spec, "dtype") or not spec.dtype.is_floating:
        return False
    shape = spec.shape
    return shape.rank is None or (shape.rank == 4 and shape[3] in (None, 3))


def _one(answer: Any, folder: Path) -> Any:
    """The one tensor of an answer: itself, the only one of a dictionary, or the one called "default"."""
    if not isinstance(answer, dict):
        return answer
    if len(answer) != 1 and "default" not in answer:
        raise _no_image_model(folder, f"it gives {len(answer)} tensors: {', '.join(sorted(answer))}")
    return answer["default"] if "default" in answer else next(iter(answer.values()))


def _size(module: Module, image_size: int | None) -> int:
    height, width = module.shape[1:3]
    if None not in (height, width) and height != width:
        raise UsageError(f"A backbone takes square images. Received: {module.folder}, {height} x {width}.")
    fixed = height or width
    if fixed is not None and image_size not in (None, fixed):
        raise UsageError(
            f"image_size: {module.folder} takes {fixed} and nothing else. Received: {image_size}."
        )
    return fixed or image_size or DEFAULT_SIZE


def _answer(module: Module, size: int) -> tuple[int, ...]:
    """The shape of the answer to one image, found by asking: graphs often leave it open."""
    black = keras.ops.zeros((1, size, size, 3), module.dtype)
    try:
        answer = module.run(black)
    except ModelRefused:
        raise
    except Exception as fault:  # a size that the graph cannot take, or no trace for inference
        raise UsageError(
            f"image_size: {module.folder} cannot take {size} pixels a side. TensorFlow says: {brief(fault)}"
        ) from fault
    shape = tuple(getattr(answer, "shape", ()))
    if len(shape) not in (2, 3, 4) or shape[0] != 1 or not math.prod(shape):
        raise _no_image_model(module.folder, f"to one image it gives {shape or type(answer).__name__}")
    return tuple(int(side) for side in shape[1:])


def facts_of(module: Module, digest: str, image_size: int | None) -> Facts:
    """What a module with this `digest_of` its folder is at a size; None for its own, or 224 where it leaves
    that open."""
    size = _size(module, image_size)
    trains = {id(variable) for variable in module.trainable}
    variables = tuple(
        (
            str(variable.name).partition(":")[0].replace("/", "_"),
            tuple(int(side) for side in variable.shape),
            str(variable.dtype.name),
            id(variable) in trains,
        )
        for variable in module.variables
    )
    return Facts(digest, size, _answer(module, size), variables, module.frozen_because)


def _no_image_model(folder: Path, received: str) -> ModelRefused:
    return ModelRefused(
        f"{folder} is no image model. Expected one that maps float RGB images (batch, height, width, 3) to "
        f"one vector, tokens or map an image. Received: {received}."
    )


def freeze_graph(network: keras.Model) -> bytes:
    """Return a network that holds SavedModels as a TensorFlow graph whose weights are constants.

    OpenVINO reads it natively. A stateless scope puts the constants in the variables' place, so that it is
    parsed in a fraction of the time that tracing variables one by one takes.

    Args:
        network: pixels, or other tensors, to a dictionary of named tensors. The batch stays free. Inputs are
            called `in_0`, `in_1` and so on, outputs their name with `out_` in front.
    """
    import tensorflow as tf

    values = [(variable, keras.ops.convert_to_numpy(variable)) for variable in network.variables]

    def constant(*given: Any) -> Any:
        mapping = [(variable, tf.constant(value)) for variable, value in values]
        with keras.StatelessScope(state_mapping=mapping):
            outputs = network(given if len(given) > 1 else given[0], training=False)
        return [tf.identity(value, name=f"out_{name}") for name, value in outputs.items()]

    signature = [
        tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=f"in_{number}")
        for number, tensor in enumerate(network.inputs)
    ]
    traced = tf.function(constant, autograph=False).get_concrete_function(*signature)
    if any(value.dtype == tf.resource for value in traced.captured_inputs):
        # A SavedModel reads its own variables, not those of the scope.
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        traced = convert_variables_to_constants_v2(traced)
    graph = traced.graph.as_graph_def()
    nodes = {node.name: node for node in graph.node}
    for value, inside in traced.graph.captures:  # tensors that layers hold, such as a mean to subtract
        node = nodes[inside.op.name]
        node.op = "Const"
        node.attr.clear()
        node.attr["dtype"].type = value.dtype.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    serialized: bytes = graph.SerializeToString()
    return serialized
