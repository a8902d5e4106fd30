"""Change the layers of a backbone: cut it shorter, replace a layer, insert a block such as attention.

Example:
    backbone = cut_at(load_backbone("resnet50"), "conv4")
    train("photos", recipe, backbone=insert_after(backbone, "conv3", cbam))
"""

from regraft.models.attention import cbam, squeeze_excitation
from regraft.models.surgery import cut_at, insert_after, replace_layer

__all__ = ["cbam", "cut_at", "insert_after", "replace_layer", "squeeze_excitation"]
