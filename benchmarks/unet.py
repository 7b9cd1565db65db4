"""Pixels per second of the U-Net: a bare forward pass in both memory formats, and whole maps.

Run ``python benchmarks/unet.py``. One thread; seconds are those that the process computes, so that
other work on the machine counts little, the best of some rounds in turn. The bare pass is that of
the same network, as it is stored and with its batch normalisation folded in, on one tensor that is
normalised already; a map starts from decoded float32 pixels, reads what each window needs beyond
itself, normalises, and ends with probabilities (``predict``) or with the zones, confidence and per
cents of a product (``map``). ``--training`` times steps of a fit, in float32 and in bfloat16.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from lczcube.grid import Grid
from lczcube.layers import chunks_of
from lczcube.models import Area, UnetModel, UnetParameters, fit_unet, predict_unet
from lczcube.models.inputs import LAYER, MEAN, STD
from lczcube.models.unetmap import WINDOW_PX, _predicted

CHUNK_PX = 640


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--bands", type=int, default=64)
    parser.add_argument("--side-px", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--training", action="store_true")
    options = parser.parse_args()
    image = noise(options.bands, options.side_px)
    for width in options.widths:
        model = fitted(image, UnetParameters(width=width))
        if options.training:
            report_training(image, width)
        else:
            report(model, image, options.side_px, options.repeats)


def noise(n_bands: int, side_px: int) -> xr.DataArray:
    """Pixels with a halo, in the chunks of a cube."""
    side = side_px + 2 * 24
    rng = np.random.default_rng(0)
    values = rng.standard_normal((n_bands, side, side), np.float32)
    coords = {"band": [f"b{i:02d}" for i in range(n_bands)]}
    return xr.DataArray(values, dims=("band", "y", "x"), coords=coords, attrs={"products": []})


def fitted(image: xr.DataArray, parameters: UnetParameters) -> UnetModel:
    """Trained for a moment, on eleven classes."""
    part = image[:, :64, :64]
    lcz = np.random.default_rng(0).integers(1, 12, (64, 64), dtype=np.uint8)
    bands = tuple(image["band"].values.tolist())
    quick = replace(parameters, epochs=1)
    return fit_unet([Area("made", part, lcz)], seed=0, bands=bands, products=(), parameters=quick)


def report(model: UnetModel, image: xr.DataArray, side_px: int, repeats: int) -> None:
    import torch

    torch.set_num_threads(1)
    n_cells = side_px // 32
    grid = Grid("EPSG:32649", (0, 0, n_cells, n_cells), chunk_cells=CHUNK_PX // 32)
    side = side_px + 48
    channels = torch.from_numpy(model.inputs.channels(image.values[None]))
    by_channel = channels.contiguous(memory_format=torch.channels_last)
    stored = as_stored(model)
    chunks = (-1, *chunks_of(grid, 24))
    lazy = image.copy(data=da.from_array(image.values, chunks=chunks, name=False))

    def forward(network: Any, tensor: Any, memory_format: Any) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode():
                network(tensor)

        network.to(memory_format=memory_format)
        return run

    def predict() -> None:
        _predicted(model, lazy, grid, 24, WINDOW_PX).compute()

    def whole_map() -> None:
        predict_unet(model, lazy, grid=grid, halo_px=24, products=()).compute()

    with dask.config.set(scheduler="synchronous"):
        seconds = best(
            {
                "bare, default format": forward(
                    as_stored(model), channels, torch.contiguous_format
                ),
                "bare": forward(stored, by_channel, torch.channels_last),
                "bare, folded": forward(model.network, by_channel, torch.channels_last),
                "predict": predict,
                "map": whole_map,
            },
            repeats,
        )
    n_weights = sum(weight.numel() for weight in stored.parameters())
    print(f"width {model.parameters.width}: {n_weights:,} weights")
    for name, value in seconds.items():
        n_pixels = side**2 if name.startswith("bare") else side_px**2
        print(f"  {name:22s} {n_pixels / value:12,.0f} pixels/s", flush=True)


def as_stored(model: UnetModel) -> Any:
    """The network without anything folded."""
    import torch

    network = model.build(model.inputs.n_channels, len(model.meta.classes))
    names = (name for name in model.state if name not in (MEAN, STD, LAYER))
    network.load_state_dict({name: torch.from_numpy(model.state[name]) for name in names})
    return network.eval()


def report_training(image: xr.DataArray, width: int) -> None:
    lcz = np.random.default_rng(0).integers(1, 12, image.shape[1:], dtype=np.uint8)
    area = Area("made", image, lcz)
    bands = tuple(image["band"].values.tolist())
    for precision in ("float32", "mixed"):
        seconds = []
        for epochs in (1, 2):
            asked = UnetParameters(width=width, epochs=epochs, precision=precision)  # type: ignore[arg-type]
            started = time.process_time()
            fit_unet([area], seed=0, bands=bands, products=(), parameters=asked)
            seconds.append(time.process_time() - started)
        n_pixels = lcz.size / (seconds[1] - seconds[0])
        print(f"width {width}, training in {precision}: {n_pixels:,.0f} pixels/s", flush=True)


def best(paths: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    found = dict.fromkeys(paths, float("inf"))
    for _ in range(repeats):
        for name, path in paths.items():
            started = time.process_time()
            path()
            found[name] = min(found[name], time.process_time() - started)
    return found


if __name__ == "__main__":
    main()
