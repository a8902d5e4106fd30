"""The table of backbones: constructor, sizes, pixel contract, stages, published weights. Data, no logic.

Importing this module does not import Keras, so a list of backbones appears at once. The figures are those of
`keras.applications` 3.15: sizes and widths were measured by building each model; accuracies are the published
ones on ImageNet (from keras.io's table; for MobileNetV3 from its docstring) at the default size.

>>> find_entry("ResNet-50").features
2048
>>> find_entry("mobilenet_v2").weights_file_at(160)
'mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_160_no_top.h5'
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from regraft.errors import UsageError, suggest_nearest
from regraft.system.backend import get_keras_home

__all__ = [
    "WEIGHTS_WORDS",
    "ZOO",
    "Entry",
    "Stages",
    "find_entry",
    "find_weights_on_disk",
    "is_zoo_name",
    "locate_keras_cache",
    "recognise_model",
]

WEIGHTS_WORDS = ("imagenet", "random")  # any other text for weights is the path of a file
Contract = Literal["tf", "torch", "caffe", "raw"]


@dataclass(frozen=True)
class Stages:
    """How the layer names of a family tell its stages.

    Args:
        rule: `"opens"`: a layer that matches is the first of its stage or lies within it; `"closes"`: it is
            the last of its stage. Layers without a match belong to the stage before them ("opens") or to the
            next one that closes ("closes"). Layers before the first mark belong to the first stage, layers
            after the last mark to the last stage.
        marks: pairs of a regular expression, searched for in a layer's name, and the name of the stage, in
            which `\\1` stands for the expression's group. The first expression that matches counts.
    """

    rule: Literal["opens", "closes"]
    marks: tuple[tuple[str, str], ...]

    def find_starts(self, layer_names: Iterable[str]) -> dict[str, int]:
        """Return the index of the first layer of each stage, in order; {} where no name matches.

        >>> blocks = Stages("opens", ((r"^(block\\d+)_", r"\\1"),))
        >>> blocks.find_starts(["pad", "block1_conv", "add", "block2_conv"])
        {'block1': 0, 'block2': 3}
        >>> mixed = Stages("closes", ((r"^(mixed\\d+)$", r"\\1"),))
        >>> mixed.find_starts(["conv", "mixed0", "conv_1", "mixed1", "relu"])
        {'mixed0': 0, 'mixed1': 2}
        """
        starts: dict[str, int] = {}
        first_free = 0
        for index, layer_name in enumerate(layer_names):
            stage = self._find_stage(layer_name)
            if stage is not None and stage not in starts:
                starts[stage] = index if self.rule == "opens" and starts else first_free
            if stage is not None:
                first_free = index + 1
        return starts

    def _find_stage(self, layer_name: str) -> str | None:
        for pattern, name in self.marks:
            if match := re.search(pattern, layer_name):
                return match.expand(name)
        return None


@dataclass(frozen=True)
class Entry:
    """A backbone as published.

    Args:
        name: regraft's name for it, in snake case.
        constructor: its name under `keras.applications`.
        module: its module under `keras.applications`, which is the family.
        image_size: pixels a side at which it was trained (EfficientNetV2: is evaluated).
        min_size: the fewest pixels a side that it can take.
        pixels: the pixel contract, see `regraft.backbones.preprocessing`; `"raw"` models take RGB 0..255.
        features: channels of its last feature map.
        parameters_m: millions of parameters of the published model, including its classifier.
        size_mb: megabytes of that model's file; None where unpublished.
        top1, top5: published ImageNet accuracy in percent; None where unpublished.
        weights_file: file name of the weights without the classifier, in the Keras cache, at `image_size`.
        weights_hash: `"md5:<hex>"` or `"sha256:<hex>"` of that file; None where Keras publishes none.
        weights_url: the address of that file.
        weights_sizes: image sizes with a file of their own; empty where one file serves every size.
        stages: how the layer names tell the stages.
    """

    name: str
    constructor: str
    module: str
    image_size: int
    min_size: int
    pixels: Contract
    features: int
    parameters_m: float
    size_mb: float | None
    top1: float | None
    top5: float | None
    weights_file: str
    weights_hash: str | None
    weights_url: str
    weights_sizes: tuple[int, ...]
    stages: Stages

    def choose_size(self, image_size: int | None) -> int:
        """Return the size to build at: `image_size`, or the backbone's own for None.

        Raises:
            UsageError: `image_size` is smaller than the backbone can take.
        """
        if image_size is not None and image_size < self.min_size:
            raise UsageError(
                f"image_size: {self.name} takes images of at least {self.min_size} pixels a side. "
                f"Received: {image_size}."
            )
        return self.image_size if image_size is None else image_size

    def weights_file_at(self, image_size: int) -> str:
        """Return the file name of the published weights for images of `image_size` pixels a side.

        A size without a file of its own takes the weights of the default size, as in Keras.
        """
        if image_size not in self.weights_sizes:
            return self.weights_file
        return self.weights_file.replace(f"_{self.image_size}_", f"_{image_size}_")

    def weights_url_at(self, image_size: int) -> str:
        """Return the address of the published weights for images of `image_size` pixels a side."""
        return self.weights_url.replace(self.weights_file, self.weights_file_at(image_size))


@dataclass(frozen=True)
class _Family:
    pixels: Contract
    stages: Stages
    weights_sizes: tuple[int, ...] = ()


def _opens(*marks: tuple[str, str]) -> Stages:
    return Stages("opens", marks)


def _closes(*marks: tuple[str, str]) -> Stages:
    return Stages("closes", marks)


_TOP = ("^(?:Conv_1|conv_1|top_conv)$", "top")
_BLOCKS = _opens((r"^(block\d+)_", r"\1"))
_CONVS = _opens((r"^(conv\d)_", r"\1"))
_LETTERED = _opens(("^stem_", "stem"), (r"^(block\d+)[a-z]+_", r"\1"), _TOP)
_MOBILE_SIZES = (128, 160, 192, 224)

_FAMILIES = {
    "mobilenet": _Family(
        "tf", _opens(("^conv1$", "stem"), (r"^conv_(?:pad|dw)_(\d+)", r"block_\1")), _MOBILE_SIZES
    ),
    "mobilenet_v2": _Family(
        "tf", _opens(("^Conv1$", "stem"), (r"^(block_\d+)_", r"\1"), _TOP), (96, *_MOBILE_SIZES)
    ),
    "mobilenet_v3": _Family("raw", _opens(("^conv$", "stem"), (r"^expanded_conv_(\d+)_", r"block_\1"), _TOP)),
    # Its cells run in parallel with their neighbours' adjustments: only the concatenations are in order.
    "nasnet": _Family(
        "tf",
        _closes(
            (r"^reduction_concat_(stem_\d+)$", r"\1"),
            (r"^reduction_concat_(reduce_\d+)$", r"\1"),
            (r"^normal_concat_(\d+)$", r"normal_\1"),
        ),
    ),
    "resnet": _Family("caffe", _CONVS),
    "resnet_v2": _Family("tf", _CONVS),
    "vgg16": _Family("caffe", _BLOCKS),
    "vgg19": _Family("caffe", _BLOCKS),
    "xception": _Family("tf", _BLOCKS),
    "inception_v3": _Family("tf", _closes((r"^(mixed\d+)$", r"\1"))),
    "inception_resnet_v2": _Family(
        "tf",
        _closes(
            (r"^(mixed_\d[ab])$", r"\1"),
            (r"^(block(?:35|17|8)_\d+)_ac$", r"\1"),
            ("^(block8_10)_conv$", r"\1"),  # the one block without an activation at its end
            ("^conv_7b_ac$", "top"),
        ),
    ),
    "densenet": _Family("torch", _CONVS),  # a transition (pool2..pool4) belongs to the dense block before it
    "efficientnet": _Family("raw", _LETTERED),
    "efficientnet_v2": _Family("raw", _LETTERED),
    "convnext": _Family(
        "raw",
        _opens(
            (r"_stem$", "stem"),
            (r"_(stage_\d)_", r"\1"),
            # A downsampling opens the stage that it feeds.
            ("_downsampling_block_0$", "stage_1"),
            ("_downsampling_block_1$", "stage_2"),
            ("_downsampling_block_2$", "stage_3"),
        ),
    ),
}

# name, constructor, module, image size, min size, features, parameters (M), size (MB), top-1, top-5
_MODELS = """
mobilenet            MobileNet          mobilenet            224  32  1024    4.3    16.0  70.4  89.5
mobilenet_v2         MobileNetV2        mobilenet_v2         224  32  1280    3.5    14.0  71.3  90.1
mobilenet_v3_small   MobileNetV3Small   mobilenet_v3         224  32   576    2.9       -  68.1     -
mobilenet_v3_large   MobileNetV3Large   mobilenet_v3         224  32   960    5.4       -  75.6     -
nasnet_mobile        NASNetMobile       nasnet               224  32  1056    5.3    23.0  74.4  91.9
nasnet_large         NASNetLarge        nasnet               331  32  4032   88.9   343.0  82.5  96.0
resnet50             ResNet50           resnet               224  32  2048   25.6    98.0  74.9  92.1
resnet101            ResNet101          resnet               224  32  2048   44.7   171.0  76.4  92.8
resnet152            ResNet152          resnet               224  32  2048   60.4   232.0  76.6  93.1
resnet50_v2          ResNet50V2         resnet_v2            224  32  2048   25.6    98.0  76.0  93.0
resnet101_v2         ResNet101V2        resnet_v2            224  32  2048   44.7   171.0  77.2  93.8
resnet152_v2         ResNet152V2        resnet_v2            224  32  2048   60.4   232.0  78.0  94.2
vgg16                VGG16              vgg16                224  32   512  138.4   528.0  71.3  90.1
vgg19                VGG19              vgg19                224  32   512  143.7   549.0  71.3  90.0
xception             Xception           xception             299  71  2048   22.9    88.0  79.0  94.5
inception_v3         InceptionV3        inception_v3         299  75  2048   23.9    92.0  77.9  93.7
inception_resnet_v2  InceptionResNetV2  inception_resnet_v2  299  75  1536   55.9   215.0  80.3  95.3
densenet121          DenseNet121        densenet             224  32  1024    8.1    33.0  75.0  92.3
densenet169          DenseNet169        densenet             224  32  1664   14.3    57.0  76.2  93.2
densenet201          DenseNet201        densenet             224  32  1920   20.2    80.0  77.3  93.6
efficientnet_b0      EfficientNetB0     efficientnet         224  32  1280    5.3    29.0  77.1  93.3
efficientnet_b1      EfficientNetB1     efficientnet         240  32  1280    7.9    31.0  79.1  94.4
efficientnet_b2      EfficientNetB2     efficientnet         260  32  1408    9.2    36.0  80.1  94.9
efficientnet_b3      EfficientNetB3     efficientnet         300  32  1536   12.3    48.0  81.6  95.7
efficientnet_b4      EfficientNetB4     efficientnet         380  32  1792   19.5    75.0  82.9  96.4
efficientnet_b5      EfficientNetB5     efficientnet         456  32  2048   30.6   118.0  83.6  96.7
efficientnet_b6      EfficientNetB6     efficientnet         528  32  2304   43.3   166.0  84.0  96.8
efficientnet_b7      EfficientNetB7     efficientnet         600  32  2560   66.7   256.0  84.3  97.0
efficientnet_v2_b0   EfficientNetV2B0   efficientnet_v2      224  32  1280    7.2    29.0  78.7  94.3
efficientnet_v2_b1   EfficientNetV2B1   efficientnet_v2      240  32  1280    8.2    34.0  79.8  95.0
efficientnet_v2_b2   EfficientNetV2B2   efficientnet_v2      260  32  1408   10.2    42.0  80.5  95.1
efficientnet_v2_b3   EfficientNetV2B3   efficientnet_v2      300  32  1536   14.5    59.0  82.0  95.8
efficientnet_v2_s    EfficientNetV2S    efficientnet_v2      384  32  1280   21.6    88.0  83.9  96.7
efficientnet_v2_m    EfficientNetV2M    efficientnet_v2      480  32  1280   54.4   220.0  85.3  97.4
efficientnet_v2_l    EfficientNetV2L    efficientnet_v2      480  32  1280  119.0   479.0  85.7  97.5
convnext_tiny        ConvNeXtTiny       convnext             224  32   768   28.6  109.42  81.3     -
convnext_small       ConvNeXtSmall      convnext             224  32   768   50.2  192.29  82.3     -
convnext_base        ConvNeXtBase       convnext             224  32  1024   88.5  338.58  85.3     -
convnext_large       ConvNeXtLarge      convnext             224  32  1536  197.7  755.07  86.3     -
convnext_xlarge      ConvNeXtXLarge     convnext             224  32  2048  350.1    1310  86.7     -
"""

# name, file without the classifier at the default size, hash
_WEIGHTS = """
mobilenet            mobilenet_1_0_224_tf_no_top.h5                                     -
mobilenet_v2         mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5  -
mobilenet_v3_small   weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5              md5:d3e8ec802a04aa4fc771ee12a9a9b836
mobilenet_v3_large   weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5              md5:07fb09a5933dd0c8eaafa16978110389
nasnet_mobile        nasnet_mobile_no_top.h5                                            md5:1ed92395b5b598bdda52abe5c0dbfd63
nasnet_large         nasnet_large_no_top.h5                                             md5:d81d89dc07e6e56530c4e77faddd61b5
resnet50             resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5               md5:4d473c1dd8becc155b73f8504c6f6626
resnet101            resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5              md5:88cf7a10940856eca736dc7b7e228a21
resnet152            resnet152_weights_tf_dim_ordering_tf_kernels_notop.h5              md5:ee4c566cf9a93f14d82f913c2dc6dd0c
resnet50_v2          resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5             md5:fac2f116257151a9d068a22e544a4917
resnet101_v2         resnet101v2_weights_tf_dim_ordering_tf_kernels_notop.h5            md5:c0ed64b8031c3730f411d2eb4eea35b5
resnet152_v2         resnet152v2_weights_tf_dim_ordering_tf_kernels_notop.h5            md5:ed17cf2e0169df9d443503ef94b23b33
vgg16                vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5                  md5:6d6bbae143d832006294945121d1f1fc
vgg19                vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5                  md5:253f8cb515780f3b799900260a226db6
xception             xception_weights_tf_dim_ordering_tf_kernels_notop.h5               md5:b0042744bf5b25fce3cb969f33bebb97
inception_v3         inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5           md5:bcbd6486424b2319ff4ef7d526e38f63
inception_resnet_v2  inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5    md5:d19885ff4a710c122648d3b5c3b684e4
densenet121          densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5            md5:30ee3e1110167f948a6b9946edeeb738
densenet169          densenet169_weights_tf_dim_ordering_tf_kernels_notop.h5            md5:b8c4d4c20dd625c148057b9ff1c1176b
densenet201          densenet201_weights_tf_dim_ordering_tf_kernels_notop.h5            md5:c13680b51ded0fb44dff2d8f86ac8bb1
efficientnet_b0      efficientnetb0_notop.h5                                            md5:50bc09e76180e00e4465e1a485ddc09d
efficientnet_b1      efficientnetb1_notop.h5                                            md5:74c4e6b3e1f6a1eea24c589628592432
efficientnet_b2      efficientnetb2_notop.h5                                            md5:111f8e2ac8aa800a7a99e3239f7bfb39
efficientnet_b3      efficientnetb3_notop.h5                                            md5:af6d107764bb5b1abb91932881670226
efficientnet_b4      efficientnetb4_notop.h5                                            md5:ebc24e6d6c33eaebbd558eafbeedf1ba
efficientnet_b5      efficientnetb5_notop.h5                                            md5:38879255a25d3c92d5e44e04ae6cec6f
efficientnet_b6      efficientnetb6_notop.h5                                            md5:9ecce42647a20130c1f39a5d4cb75743
efficientnet_b7      efficientnetb7_notop.h5                                            md5:cbcfe4450ddf6f3ad90b1b398090fe4a
efficientnet_v2_b0   efficientnetv2-b0_notop.h5                                         md5:893217f2bb855e2983157299931e43ff
efficientnet_v2_b1   efficientnetv2-b1_notop.h5                                         md5:0e80663031ca32d657f9caa404b6ec37
efficientnet_v2_b2   efficientnetv2-b2_notop.h5                                         md5:1dfe2e7a5d45b6632553a8961ea609eb
efficientnet_v2_b3   efficientnetv2-b3_notop.h5                                         md5:f6abf7b5849ac99a89b50dd3fd532856
efficientnet_v2_s    efficientnetv2-s_notop.h5                                          md5:af0682fb74e8c54910f2d4393339c070
efficientnet_v2_m    efficientnetv2-m_notop.h5                                          md5:1b8dc055df72dde80d614482840fe342
efficientnet_v2_l    efficientnetv2-l_notop.h5                                          md5:b0b66b5c863aef5b46e8608fe1711615
convnext_tiny        convnext_tiny_notop.h5                                             sha256:d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1
convnext_small       convnext_small_notop.h5                                            sha256:6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab
convnext_base        convnext_base_notop.h5                                             sha256:40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45
convnext_large       convnext_large_notop.h5                                            sha256:96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd
convnext_xlarge      convnext_xlarge_notop.h5                                           sha256:de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05
"""  # noqa: E501 - a table is read along its rows

_BUCKET = "https://storage.googleapis.com"
_PUBLISHED_AS = {  # the cache names these files differently from the bucket
    "nasnet_mobile_no_top.h5": "NASNet-mobile-no-top.h5",
    "nasnet_large_no_top.h5": "NASNet-large-no-top.h5",
}


_FOLDERS = {  # every other family has a folder of its own name
    "efficientnet": "keras-applications",
    "resnet_v2": "tensorflow/keras-applications/resnet",
}


def _make_url(module: str, file: str) -> str:
    folder = _FOLDERS.get(module, f"tensorflow/keras-applications/{module}")
    return f"{_BUCKET}/{folder}/{_PUBLISHED_AS.get(file, file)}"


def _parse_figure(cell: str) -> float | None:
    return None if cell == "-" else float(cell)


def _make_entry(model: list[str], weights: list[str]) -> Entry:
    name, constructor, module, image_size, min_size, features, parameters, size, top1, top5 = model
    _, file, digest = weights
    family = _FAMILIES[module]
    return Entry(
        name=name,
        constructor=constructor,
        module=module,
        image_size=int(image_size),
        min_size=int(min_size),
        pixels=family.pixels,
        features=int(features),
        parameters_m=float(parameters),
        size_mb=_parse_figure(size),
        top1=_parse_figure(top1),
        top5=_parse_figure(top5),
        weights_file=file,
        weights_hash=None if digest == "-" else digest,
        weights_url=_make_url(module, file),
        weights_sizes=family.weights_sizes,
        stages=family.stages,
    )


def _read_rows(table: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split() for line in table.strip().splitlines()}


ZOO: dict[str, Entry] = {
    name: _make_entry(row, _read_rows(_WEIGHTS)[name]) for name, row in _read_rows(_MODELS).items()
}


def _normalise_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_zoo_name(backbone: str | Path) -> bool:
    """Return whether a text is meant as a name in the table, not as a file, folder, handle or preset.

    A name of the table is one whatever lies on the disk; `./resnet50` is a path.

    >>> is_zoo_name("resnet50"), is_zoo_name("kerashub:vit_base"), is_zoo_name("mine.keras")
    (True, False, False)
    """
    if isinstance(backbone, Path) or set(backbone) & set("/\\:."):
        return False
    return _look_up(backbone) is not None or not Path(backbone).exists()


def find_entry(name: str) -> Entry:
    """Return the entry that `name` means; case, dashes and underscores do not count.

    Raises:
        UsageError: no backbone has that name.

    >>> find_entry("EfficientNetV2B0").name
    'efficientnet_v2_b0'
    """
    if (entry := _look_up(name)) is not None:
        return entry
    raise UsageError(
        f'No backbone is called "{name}".{suggest_nearest(name.lower(), ZOO)} `regraft backbones` lists '
        "them; a .keras file, the folder or handle of a SavedModel and kerashub:PRESET are backbones too."
    )


def _look_up(name: str) -> Entry | None:
    """Return the entry of a name in any spelling; None where there is none, as for a path."""
    if set(name) & set("/\\"):
        return None
    plain = _normalise_name(name)
    return next((entry for entry in ZOO.values() if _normalise_name(entry.name) == plain), None)


def recognise_model(model_name: str) -> Entry | None:
    """Return the entry whose constructor gives models this name; None where there is none.

    >>> [recognise_model(name).name for name in ("mobilenetv2_1.00_224", "efficientnetv2-b0")]
    ['mobilenet_v2', 'efficientnet_v2_b0']
    """
    name = _normalise_name(re.sub(r"_\d\.\d+_\d+$", "", model_name))
    # Both NASNets are called so; they have the same contract and stages.
    return _look_up("nasnet_mobile" if name == "nasnet" else name)


def locate_keras_cache() -> Path:
    """Return the folder of Keras' downloaded weights: `models` in $KERAS_HOME, else in ~/.keras."""
    return get_keras_home() / "models"


def find_weights_on_disk(entry: Entry, image_size: int | None = None) -> Path | None:
    """Return the file of published weights in the Keras cache, or None; this does not import Keras.

    Args:
        entry: a row of the table.
        image_size: pixels a side, which matter where each size has its file; None for the entry's own.
    """
    file = entry.weights_file_at(image_size or entry.image_size)
    # Where the cache cannot be written, Keras downloads to the second folder instead.
    for folder in (locate_keras_cache(), Path(tempfile.gettempdir()) / ".keras" / "models"):
        if (folder / file).is_file():
            return folder / file
    return None
