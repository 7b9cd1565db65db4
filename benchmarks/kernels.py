"""Window statistics on stored codes against xarray's ``coarsen``, in one run on one thread.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --layers alphaearth --side-px 640 --repeats 5

The naive path is ``coarsen(y=32, x=32)`` with ``mean``, ``std`` and ``max`` on the decoded float32
pixels, stored in the order of the codes; decoding is not counted. Ours starts from the codes:
``valid_mask`` and ``reduce_windows``. They are timed in turn, the best of some rounds, and seconds
are those that the thread runs, so that other work on the machine counts little. One pixel in ten,
scattered, is invalid: the worst for the mask, which then reads every band. Compilation is timed in
processes of their own, with an empty cache and with a full one. Times move with the machine; their
ratio less so.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.decoders import Coding
from lczcube.kernels import reduce_windows, valid_mask

STATS = ("mean", "std", "max")
CELL_PX = 32
INVALID_SHARE = 0.1


@dataclass(frozen=True)
class Layer:
    """Codes of one product, their scales if any, and how they are stored."""

    codes: npt.NDArray[np.int8]
    coding: Coding
    scales: npt.NDArray[np.float32] | None
    band_last: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--side-px", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--first-call", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_call:
        print(first_call_seconds(options.layers[0]))
        return
    print(f"{options.side_px} x {options.side_px} pixels, one thread, best of {options.repeats}\n")
    print(
        "| layer | naive: coarsen, s | lczcube.kernels, s | of that the mask, s | ratio | ", end=""
    )
    print("largest difference | first call, s: no cache | cached |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.layers:
        print(f"| {name} | {figures(name, options.side_px, options.repeats)} |", flush=True)


def figures(name: str, side_px: int, repeats: int) -> str:
    layer = LAYERS[name](side_px)
    values = decoded(layer)
    difference = largest_difference(layer, values)
    paths = {"naive": lambda: naive(values), "ours": lambda: ours(layer)}
    best = best_seconds(paths | {"mask": lambda: mask_of(layer)}, repeats)
    cold_s, cached_s = compile_seconds(name)
    return (
        f"{best['naive']:.3f} | {best['ours']:.4f} | {best['mask']:.4f} | "
        f"{best['naive'] / best['ours']:.1f} x | {difference:.1e} | {cold_s:.1f} | {cached_s:.1f}"
    )


def alphaearth(side_px: int) -> Layer:
    codes, invalid = pixels(64, side_px)
    codes[:, invalid] = -128
    return Layer(codes, Coding("signed_square", "all_bands_nodata", -128, (1,), (0,)), None, False)


def tessera(side_px: int) -> Layer:
    codes, invalid = pixels(128, side_px)
    scales = np.random.default_rng(1).uniform(0.01, 0.02, invalid.shape).astype(np.float32)
    scales[invalid] = np.nan
    return Layer(codes, Coding("int8_times_scale", "finite_scale", None, (1,), (0,)), scales, False)


def tessera_npy(side_px: int) -> Layer:
    layer = tessera(side_px)
    codes = np.ascontiguousarray(np.moveaxis(layer.codes, 0, -1))
    return Layer(codes, layer.coding, layer.scales, True)


LAYERS: dict[str, Callable[[int], Layer]] = {
    "alphaearth": alphaearth,
    "tessera": tessera,
    "tessera-npy": tessera_npy,
}


def pixels(n_bands: int, side_px: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (n_bands, side_px, side_px), dtype=np.int8)
    return codes, rng.random((side_px, side_px)) < INVALID_SHARE


def decoded(layer: Layer) -> xr.DataArray:
    """Float32 pixels, stored in the order of the codes."""
    codes = np.moveaxis(layer.codes, -1, 0) if layer.band_last else layer.codes
    scales = None if layer.scales is None else layer.scales[np.newaxis]
    values = layer.coding.decode(codes, scales)
    if layer.band_last:
        values = np.ascontiguousarray(np.moveaxis(values, 0, -1))
    return xr.DataArray(values, dims=("y", "x", "b") if layer.band_last else ("b", "y", "x"))


def naive(values: xr.DataArray) -> list[xr.DataArray]:
    cells = values.coarsen(y=CELL_PX, x=CELL_PX)
    return [getattr(cells, stat)() for stat in STATS]


def mask_of(layer: Layer) -> npt.NDArray[np.bool_]:
    return valid_mask(layer.codes, layer.coding, layer.scales, layer.band_last)


def ours(layer: Layer) -> npt.NDArray[np.float32]:
    valid = mask_of(layer)
    y, x = np.mgrid[0 : valid.shape[0] : CELL_PX, 0 : valid.shape[1] : CELL_PX].reshape(2, -1)
    return reduce_windows(
        layer.codes,
        layer.coding,
        valid,
        y,
        x,
        size_px=CELL_PX,
        stats=STATS,
        scales=layer.scales,
        band_last=layer.band_last,
    )


def largest_difference(layer: Layer, values: xr.DataArray) -> float:
    expected = [np.asarray(x.transpose("y", "x", "b").values) for x in naive(values)]
    stacked = np.concatenate(expected, axis=-1)
    actual = ours(layer)
    return float(np.nanmax(np.abs(actual - stacked.reshape(actual.shape))))


def best_seconds(paths: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    best = dict.fromkeys(paths, float("inf"))
    for _ in range(repeats):
        for name, path in paths.items():
            started = time.thread_time()
            path()
            best[name] = min(best[name], time.thread_time() - started)
    return best


def compile_seconds(name: str) -> tuple[float, float]:
    """The first call in a new process, with an empty cache of compiled functions and a full one."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--first-call", "--layers", name]
        runs = [
            subprocess.run(
                command,
                env=os.environ | {"NUMBA_CACHE_DIR": cache},
                capture_output=True,
                text=True,
                check=True,
            )
            for _ in range(2)
        ]
    cold, cached = (float(run.stdout) for run in runs)
    return cold, cached


def first_call_seconds(name: str) -> float:
    layer = LAYERS[name](CELL_PX)
    return best_seconds({"ours": lambda: ours(layer)}, 1)["ours"]


if __name__ == "__main__":
    main()
