"""Inner outputs of a trained model: the pooled features and the feature map that its head looks at.

Features tell how familiar an image is, and the map where in an image the evidence lies. The name of the
backbone's last layer is all that a run folder has to record to find both in `model.keras`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from regraft.backbones.graph import find_node, list_nodes

if TYPE_CHECKING:
    import keras

    from regraft.models.cut import Cut

__all__ = ["ANSWERS", "FEATURES", "HEAT", "MAP", "InnerLayer", "name_tensors"]

ANSWERS = "answers"  # name of the output of answers, (n, units)
FEATURES = "features"  # name of the output of pooled features, (n, d)
HEAT = "heat"  # name of the output of heat, (n, height, width, units), whose mean over positions answers
MAP = "map"  # name of the output of the backbone's feature map, (n, height, width, channels)


@dataclass(frozen=True)
class InnerLayer:
    """The layer whose output the head sees.

    Attributes:
        layer: name of the backbone's last layer.
        pooling: how its output becomes a vector: "avg", "max" or "both".
    """

    layer: str
    pooling: str

    @classmethod
    def from_cut(cls, cut: Cut, pooling: str) -> InnerLayer:
        """Return the last layer of the frozen part before the head's pooling.

        Args:
            cut: a model from `graft`, cut where its head begins, or behind the poolings of its taps.
            pooling: of the head; poolings that are learnt are replaced by the average.
        """
        from regraft.backbones.classifier import is_head  # imports Keras

        node = find_node(cut.prefix.output[cut.names[-1]])
        while is_head(node.operation) and not node.is_input:
            node = find_node(node.input_tensors[0])
        return cls(node.operation.name, "avg" if pooling in ("gem", "attention") else pooling)


def name_tensors(model: keras.Model, inner: InnerLayer | None) -> dict[str, keras.KerasTensor]:
    """Return tensors of a model by name: `ANSWERS`, and where it has them `FEATURES` and `MAP`.

    A head on averages of several feature maps has `HEAT` instead of `MAP`, see `models.tap_heat`.

    Args:
        model: a trained model with one output. If it takes several images a sample, its features are their
            mean, and it has no map.
        inner: the backbone's last layer; None for the answers alone.

    Example:
        >>> import keras
        >>> image = keras.Input((8, 8, 3))
        >>> edges = keras.layers.Conv2D(4, 3, name="edges")(image)
        >>> vector = keras.layers.GlobalAveragePooling2D()(edges)
        >>> model = keras.Model(image, keras.layers.Dense(2)(vector))
        >>> tensors = name_tensors(model, InnerLayer("edges", "avg"))
        >>> {name: tensor.shape for name, tensor in tensors.items()}
        {'answers': (None, 2), 'features': (None, 4), 'map': (None, 6, 6, 4)}
    """
    from regraft.models.attention import pool
    from regraft.models.tap_heat import sum_tap_heat

    tensors = {ANSWERS: model.outputs[0]}
    tensor = _find_tensor(model, inner) if inner else None
    if inner is None or tensor is None:
        return tensors
    tensors[FEATURES] = pool(tensor, inner.pooling, "inner_pool") if len(tensor.shape) > 2 else tensor
    heat = sum_tap_heat(model)
    if heat is not None:
        tensors[HEAT] = heat
    elif len(tensor.shape) == 4:
        tensors[MAP] = tensor
    return tensors


def _find_tensor(model: keras.Model, inner: InnerLayer) -> keras.KerasTensor | None:
    if len(model.inputs[0].shape) == 5:  # several images a sample: what their head takes
        tensor = find_node(model.outputs[0]).input_tensors[-1]
        return tensor if len(tensor.shape) == 2 else None
    tensors = [node.outputs[0] for node in list_nodes(model) if node.operation.name == inner.layer]
    return tensors[-1] if tensors else None
