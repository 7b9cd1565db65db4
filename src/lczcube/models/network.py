"""The networks: a U-Net on pixels and a small convolutional network on windows, in torch."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_LEAST_SIDE_PX = 4
"""A window is halved only from this side on: batch normalisation wants more than one value."""


def context_of(depth: int) -> int:
    """Pixels around a pixel that a U-Net's answer may depend on, a multiple of ``2**depth``.

    Parameters
    ----------
    depth : int
        Levels down.

    Notes
    -----
    Two 3 x 3 convolutions at each level reach 2 pixels of that level: down and up again
    ``4 (2**depth - 1)`` pixels, ``2 * 2**depth`` at the bottom, and ``2**depth - 1`` for where in
    its pooled block the pixel lies.
    """
    step: int = 2**depth
    radius = 4 * (step - 1) + 2 * step + step - 1
    return -(-radius // step) * step


def unet_network(
    n_inputs: int, n_classes: int, *, width: int, depth: int, band_dropout: float, dropout: float
) -> Any:
    """The U-Net, with a 1 x 1 stem whose output also goes straight to the head.

    Parameters
    ----------
    n_inputs, n_classes : int
        Channels in and out.
    width, depth : int
        Channels at full resolution, which double at each of the levels down.
    band_dropout, dropout : float
        Shares of the inputs and of the last features that training hides.

    Returns
    -------
    torch.nn.Module
        Of ``(n, n_inputs, y, x)`` to logits ``(n, n_classes, y, x)``: ``stem``, which sees each
        pixel alone, then ``surroundings``. Sides are multiples of ``2**depth``. ``spare``, a
        multiple of it too, are pixels along each edge of which ``surroundings`` gives none: on the
        way up it then computes no more than the rest can depend on.

    Notes
    -----
    A pixel of an embedding says much by itself: the straight way keeps that through the pooling.
    """
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [width * 2**level for level in range(depth + 1)]
            sources = [widths[0], *widths[:-1]]
            self.stem = _stem(n_inputs, width, band_dropout)
            self.down = nn.ModuleList(
                _block(source, width) for source, width in zip(sources, widths, strict=True)
            )
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(wide, narrow, 2, stride=2) for narrow, wide in pairwise(widths)
            )
            self.join = nn.ModuleList(_block(2 * narrow, narrow) for narrow in widths[:-1])
            self.pool = nn.MaxPool2d(2)
            hidden = nn.Dropout2d(dropout)
            self.head = nn.Sequential(hidden, nn.Conv2d(2 * width, n_classes, 1))

        def forward(self, image: "torch.Tensor") -> "torch.Tensor":
            return self.surroundings(self.stem(image))

        def surroundings(self, pixels: "torch.Tensor", spare: int = 0) -> "torch.Tensor":
            import torch

            kept, margin = _margins_up(spare, depth), spare >> depth
            values, skipped = pixels, []
            for level, down in enumerate(self.down):
                values = down(self.pool(values) if level else values)
                skipped.append(values)
            skipped.pop()
            for level in reversed(range(len(self.up))):
                below = self.up[level](_cropped(values, margin - kept[level] // 2))
                beside = _cropped(skipped[level], (spare >> level) - kept[level])
                values, margin = self.join[level](torch.cat([below, beside], dim=1)), kept[level]
            both = [_cropped(pixels, spare), _cropped(values, margin)]
            logits: torch.Tensor = self.head(torch.cat(both, dim=1))
            return logits

    return _initialised(Network())


def patch_network(
    n_inputs: int,
    n_classes: int,
    *,
    width: int,
    depth: int,
    window_px: int,
    band_dropout: float,
    dropout: float,
) -> Any:
    """A network that gives a window one class.

    Parameters
    ----------
    n_inputs, n_classes : int
        Channels in and out.
    width, depth : int
        Channels of the first level, which double at each of the levels down.
    window_px : int
        Side of the windows; they are halved while 4 pixels or more are left.
    band_dropout, dropout : float
        Shares of the inputs and of the last features that training hides.

    Returns
    -------
    torch.nn.Module
        Of ``(n, n_inputs, window_px, window_px)`` to logits ``(n, n_classes, 1, 1)``.

    Notes
    -----
    The head sees the mean of the bare pixels beside the mean and the maximum of the last features:
    what a linear model on averaged features sees is kept.
    """
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = _stem(n_inputs, width, band_dropout)
            layers, source, side = [], width, window_px
            for level in range(depth + 1):
                layers.append(_block(source, width * 2**level))
                source = width * 2**level
                if level < depth and side >= _LEAST_SIDE_PX:
                    layers.append(nn.MaxPool2d(2))
                    side //= 2
            self.levels = nn.Sequential(*layers)
            hidden = nn.Dropout2d(dropout)
            self.head = nn.Sequential(hidden, nn.Conv2d(width + 2 * source, n_classes, 1))

        def forward(self, image: "torch.Tensor") -> "torch.Tensor":
            import torch

            pixels = self.stem(image)
            values = self.levels(pixels)
            seen = [pixels.mean((2, 3)), values.mean((2, 3)), values.amax((2, 3))]
            logits: torch.Tensor = self.head(torch.cat(seen, dim=1)[:, :, None, None])
            return logits

    return _initialised(Network())


def ready_to_predict(network: Any) -> Any:
    """The network in channels-last, its batch normalisation folded into the convolutions.

    Notes
    -----
    Folded, the U-Net of the default width predicts 1.2 times as many pixels a second; logits move
    by about 1e-5.
    """
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    network.eval()
    for module in network.modules():
        if isinstance(module, nn.Sequential) and len(module) == 3:
            convolution, normalise, _ = module
            if isinstance(convolution, nn.Conv2d) and isinstance(normalise, nn.BatchNorm2d):
                module[0] = fuse_conv_bn_eval(convolution, normalise)
                module[1] = nn.Identity()
    return network.to(memory_format=torch.channels_last)


def _margins_up(spare: int, depth: int) -> list[int]:
    """Of each level, the margin that its convolutions on the way up need: even, to be pooled."""
    margins: list[int] = []
    for level in range(depth):
        wanted = margins[-1] // 2 + 2 if margins else 2
        margins.append(min(wanted + wanted % 2, spare >> level))
    return margins


def _cropped(values: "torch.Tensor", margin: int) -> "torch.Tensor":
    inner = slice(margin, -margin or None)
    return values[..., inner, inner]


def _stem(n_inputs: int, width: int, band_dropout: float) -> Any:
    from torch import nn

    return nn.Sequential(nn.Dropout2d(band_dropout), _layer(n_inputs, width, 1))


def _block(n_in: int, n_out: int) -> Any:
    from torch import nn

    return nn.Sequential(_layer(n_in, n_out, 3), _layer(n_out, n_out, 3))


def _layer(n_in: int, n_out: int, side: int) -> Any:
    from torch import nn

    convolution = nn.Conv2d(n_in, n_out, side, padding=side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


def _initialised(network: Any) -> Any:
    """He's initial weights: torch's own need three times the steps on sparse labels."""
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    return network
