"""The classes and functions that the configuration of a model may name: data, and next to no logic.

Keras looks names up and calls whatever it finds. These lists allow only what computes with tensors, so a
layer from a later version of Keras is refused until it is added here.
"""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = [
    "ACTIVATIONS",
    "LAYERS",
    "MODELS",
    "REFUSED_LAYERS",
    "explain_refused_class",
    "explain_refused_function",
]

_LAYERS = """
Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add
AdditiveAttention AlphaDropout Attention AugMix AutoContrast Average AveragePooling1D AveragePooling2D
AveragePooling3D AvgPool1D AvgPool2D AvgPool3D BatchNormalization Bidirectional CategoryEncoding
CenterCrop Concatenate ContrastLimitedAdaptiveHistogramEqualization Conv1D Conv1DTranspose Conv2D
Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Convolution1D
Convolution1DTranspose Convolution2D Convolution2DTranspose Convolution3D Convolution3DTranspose
Cropping1D Cropping2D Cropping3D CutMix Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot Dropout
ELU EinsumDense Embedding Equalization Flatten GRU GRUCell GaussianDropout GaussianNoise
GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalAvgPool1D GlobalAvgPool2D
GlobalAvgPool3D GlobalMaxPool1D GlobalMaxPool2D GlobalMaxPool3D GlobalMaxPooling1D GlobalMaxPooling2D
GlobalMaxPooling3D GroupNormalization GroupQueryAttention Identity InputLayer LSTM LSTMCell
LayerNormalization LeakyReLU Masking MaxPool1D MaxPool2D MaxPool3D MaxPooling1D MaxPooling2D MaxPooling3D
Maximum Minimum MixUp MultiHeadAttention Multiply Normalization PReLU Permute Pipeline RMSNormalization
RNN RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert
RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear
RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape Resizing ReversibleEmbedding
SeparableConv1D SeparableConv2D SeparableConvolution1D SeparableConvolution2D SimpleRNN SimpleRNNCell
Softmax Solarization SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization
StackedRNNCells Subtract TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D
ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
LAYERS = frozenset(_LAYERS.split())

_CODE, _FILES, _OTHER = "runs a program", "can read files", "is not a layer of an image model"
REFUSED_LAYERS = {
    **dict.fromkeys(("FlaxLayer", "JaxLayer", "Lambda", "TFSMLayer", "TorchModuleWrapper"), _CODE),
    **dict.fromkeys(("IntegerLookup", "StringLookup", "TextVectorization"), _FILES),
    **dict.fromkeys(("HashedCrossing", "Hashing", "Input", "InputSpec", "Layer", "Wrapper"), _OTHER),
    **dict.fromkeys(("MaxNumBoundingBoxes", "MelSpectrogram", "STFTSpectrogram"), _OTHER),
}

_ACTIVATIONS = """
celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu linear
log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus softsign
sparse_plus sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink threshold
keras_hub>gelu_approximate
"""
ACTIVATIONS = frozenset(_ACTIVATIONS.split())

# Classes that hold other layers, by module.
MODELS = {
    ("keras", "Sequential"),
    ("keras", "Model"),
    ("keras.models", "Sequential"),
    ("keras.models", "Model"),
    ("keras.src.models.functional", "Functional"),
    ("keras.src.models.sequential", "Sequential"),
}

_NAMED = {
    ("keras", "DTypePolicy"),
    ("keras.src.applications.convnext", "LayerScale"),
    ("keras.src.applications.convnext", "StochasticDepth"),
    ("keras.src.applications.inception_resnet_v2", "CustomScaleLayer"),
    ("regraft.backbone.savedlayer", "SavedModelLayer"),  # in files written before the packages moved
    ("regraft.backbones.savedmodel_layer", "SavedModelLayer"),
}
# Modules whose classes all just compute. `ops.core` is not one: its "Map", "Cond" and so on call functions.
_COMPUTING = re.compile(
    r"keras\.(initializers|regularizers|constraints|dtype_policies|quantizers|losses|metrics|optimizers"
    r"|optimizers\.schedules|random)|keras\.src\.ops\.(numpy|nn|math|image|linalg|einops)"
)
_CORE = {"Cast", "ConvertToTensor", "SaturateCast", "Scatter", "ScatterUpdate", "Slice", "SliceUpdate"}
_CORE |= {"StopGradient", "Unstack"}
_HUB = re.compile(
    r"keras_hub\.src\.(layers\.modeling\.\w+|models\.(clip|cspnet|deit|densenet|dinov2|dinov3|efficientnet|hgnetv2"
    r"|metaclip_2|mit|mobilenet|mobilenetv5|resnet|siglip|swin_transformer|vgg|vit|vit_det|xception)\.\w+)"
)
_HUB_READS = re.compile(r"\w*(Tokenizer|Preprocessor|Converter|Task|Classifier|Segmenter|Detector|Generator)")
_CLASS = re.compile(r"[A-Z][A-Za-z0-9]*")


def explain_refused_class(
    module: object, name: str, registered: object, user_names: Collection[str] = ()
) -> str:
    """Return why a class may not be in a model file; "" where it may.

    Args:
        module: the module where Keras would look for the class.
        name: the name of the class.
        registered: the name under which the class may be registered, which Keras looks up first.
        user_names: names under which the user's own program has registered classes and functions.

    >>> explain_refused_class("keras.layers", "Dense", None)
    ''
    >>> explain_refused_class("os", "system", None)
    'is not one of the classes that a model file may name'
    """
    module = module if isinstance(module, str) else ""
    if isinstance(registered, str) and registered in user_names:
        return ""
    if module == "keras.layers" and name not in LAYERS:
        return REFUSED_LAYERS.get(name, "is not a Keras layer that regraft knows")
    is_listed = module == "keras.layers" or (module, name) in MODELS | _NAMED
    is_computing = _COMPUTING.fullmatch(module) or (module == "keras.src.ops.core" and name in _CORE)
    is_from_hub = _HUB.fullmatch(module) and not _HUB_READS.fullmatch(name)
    if not is_listed and not ((is_computing or is_from_hub) and _CLASS.fullmatch(name)):
        return "is not one of the classes that a model file may name"
    package = "keras_hub" if is_from_hub else "regraft"
    if registered not in (None, name, f"{package}>{name}"):
        return "is registered under another name than its own"
    return ""


def explain_refused_function(module: object, name: object, user_names: Collection[str] = ()) -> str:
    """Return why a function may not be in a model file; "" where it may. See `explain_refused_class`."""
    name = name if isinstance(name, str) else ""
    if name in user_names:
        return ""
    modules = ("builtins", "keras.activations", "keras_hub.src.utils.keras_utils")
    if module in modules and name in ACTIVATIONS:
        return ""
    return "is not one of the activations that a model file may name"
