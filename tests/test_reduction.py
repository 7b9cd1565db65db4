"""Windows over tiles: the same bits however the layer is cut, stored, chunked or read."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
import zarr
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lczcube.cube import GRID_ATTR, HALO_ATTR, decode
from lczcube.decoders import Coding
from lczcube.grid import Grid
from lczcube.mosaic import Mosaic, mosaic_array
from lczcube.reader import Storage
from lczcube.tiles import Rect, Tile, place_tiles
from lczcube.windows import aggregate, aggregate_patches
from tests.test_aggregate import patches_at
from tests.test_mosaic import X0, Y0, cuts, tile_at, write_tile

CELL_PX = 4
"""Cells of 40 m: many of them in a small scene."""


def grid_at(top: int, left: int, rows: int, columns: int, **keys: Any) -> Grid:
    """Cells counted from the scene's corner, which is a corner of the lattice."""
    cell_m = 10 * CELL_PX
    x, y = round(X0 / cell_m), round(Y0 / cell_m)
    cells = (x + left, y - top - rows, x + left + columns, y - top)
    return Grid("EPSG:32632", cells, cell_m=cell_m, **keys)


def cube_of(
    layers: dict[str, tuple[list[Tile], list[Tile], npt.NDArray[Any], Coding]], grid: Grid
) -> xr.Dataset:
    """A cube as ``open_cube`` gives it, of tiles without a catalog."""
    frame = grid.read_geobox()
    halo = grid.halo_px
    chunks = tuple(
        tuple(
            min(grid.chunk_px, n - start)
            + halo * (start == 0)
            + halo * (start + grid.chunk_px >= n)
            for start in range(0, n, grid.chunk_px)
        )
        for n in grid.shape
    )
    variables: dict[str, Any] = {}
    for name, (tiles, scale_tiles, like, coding) in layers.items():
        mosaic = Mosaic(
            name=name,
            tiles=tuple(place_tiles(tiles, frame)),
            scale_tiles=tuple(place_tiles(scale_tiles, frame)),
            frame=frame,
            storage=Storage(like.dtype.name, len(like), coding.nodata),
            coding=coding,
            chunks=(chunks[0], chunks[1]),
        )
        attrs = coding.to_attrs() | {"product": "test/1", "synthetic": 1}
        dims = ("time", f"{name}_band", "y", "x")
        variables[name] = (dims, mosaic_array([mosaic]), attrs)
        if scale_tiles:
            scales = mosaic.of_scales()
            per_band = scales.storage.n_bands > 1
            leading = ("time", "band", "y", "x") if per_band else ("time", "y", "x")
            array = mosaic_array([scales], leading)
            variables[f"{name}_scale"] = (dims if per_band else leading, array)
    coords = {
        f"{name}_band": [f"b{i}" for i in range(len(like))]
        for name, (_, _, like, _) in layers.items()
    }
    return xr.Dataset(variables, coords=coords, attrs={GRID_ATTR: grid.to_json(), HALO_ATTR: halo})


def linear(n_bands: int, nodata: float | None) -> Coding:
    return Coding("linear", "nodata", nodata, (0.5,) * n_bands, (1.0,) * n_bands)


def noise(dtype: str, n_bands: int = 2, side: int = 60) -> npt.NDArray[Any]:
    rng = np.random.default_rng(3)
    scene = rng.integers(1, 100, (n_bands, side, side)).astype(dtype)
    scene[:, rng.random((side, side)) < 0.15] = 0
    return scene + (rng.random(scene.shape) * (scene > 0)).astype(dtype)


def require_same_bits(a: xr.Dataset, b: xr.Dataset) -> None:
    for name in a.data_vars:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=str(name))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_windows_have_the_same_bits_however_the_scene_is_tiled_and_chunked(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("tiling")
    scene = noise(data.draw(st.sampled_from(["int16", "float32"])))
    coding = linear(2, 0)
    edges_y, edges_x = ([0, *data.draw(cuts), 60] for _ in range(2))
    over = data.draw(st.integers(0, 5))
    tiles = [
        write_tile(
            folder / f"{y0:02d}-{x0:02d}.tif",
            scene[:, y0 : y1 + over, x0 : x1 + over],
            top=y0,
            left=x0,
            south_up=data.draw(st.booleans()),
            nodata=0,
        )
        for y0, y1 in pairwise(edges_y)
        for x0, x1 in pairwise(edges_x)
    ]
    whole = write_tile(folder / "whole.tif", scene, nodata=0)
    stride_m = data.draw(st.sampled_from([20, 40]))
    n_cells = 13 if stride_m == 40 else 12
    keys = {"stride_m": stride_m}
    base = cube_of({"a": ([whole], [], scene, coding)}, grid_at(0, 0, n_cells, n_cells, **keys))
    expected = aggregate(base, stats=("mean", "std", "max")).compute(scheduler="synchronous")
    top, left = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    part = grid_at(top, left, 6, 7, chunk_cells=data.draw(st.integers(1, 9)), **keys)
    cells = aggregate(cube_of({"a": (tiles, [], scene, coding)}, part))
    step = CELL_PX * 10 // stride_m
    at = {
        "cell_y": slice(top * step, (top + 6) * step),
        "cell_x": slice(left * step, (left + 7) * step),
    }
    require_same_bits(cells.compute(scheduler="synchronous"), expected.isel(at))


def test_a_loaded_or_rechunked_cube_gives_the_same_bits_as_its_files(tmp_path: Path) -> None:
    scene = noise("float32")
    tile = write_tile(tmp_path / "a.tif", scene, nodata=0)
    grid = grid_at(1, 1, 12, 12, stride_m=20, chunk_cells=3)
    cube = cube_of({"a": ([tile], [], scene, linear(2, 0))}, grid)
    from_files = aggregate(cube).compute()
    require_same_bits(aggregate(cube.compute()).compute(), from_files)
    require_same_bits(aggregate(cube.chunk(y=11, x=17)).compute(), from_files)


def npy_tile(
    folder: Path, name: str, codes: npt.NDArray[Any], scales: npt.NDArray[Any], top: int, left: int
) -> tuple[Tile, Tile]:
    """Codes ``(y, x, band)`` and their scales as npy, as TESSERA stores them."""
    affine = Affine(10, 0, X0 + 10 * left, 0, -10, Y0 - 10 * top)
    np.save(folder / f"{name}.npy", codes)
    np.save(folder / f"{name}_scales.npy", scales)
    axes = "y,x" if scales.ndim == 2 else "y,x,band"
    shape = codes.shape[:2]
    keys = {"kind": "npy", "block_px": 10**6}
    return (
        tile_at(folder / f"{name}.npy", affine, shape, axes="y,x,band", **keys),
        tile_at(folder / f"{name}_scales.npy", affine, shape, axes=axes, **keys),
    )


@pytest.mark.parametrize("per_band", [False, True])
def test_npy_codes_with_scales_equal_coarsen_on_the_decoded_cube(
    tmp_path: Path, per_band: bool
) -> None:
    rng = np.random.default_rng(7)
    codes = rng.integers(-128, 128, (60, 60, 5)).astype(np.int8)
    scales = rng.uniform(0.01, 0.2, (60, 60, 5) if per_band else (60, 60)).astype(np.float32)
    scales[rng.random((60, 60)) < 0.1] = np.nan
    scales[:4, :4] = np.inf
    pairs = [
        npy_tile(tmp_path, "a", codes[:, :33], scales[:, :33], 0, 0),
        npy_tile(tmp_path, "b", codes[:, 30:], scales[:, 30:], 0, 30),
    ]
    tiles, scale_tiles = ([pair[i] for pair in pairs] for i in (0, 1))
    coding = Coding("int8_times_scale", "finite_scale", None, (1.0,) * 5, (0.0,) * 5)
    like = np.zeros((5, 1, 1), np.int8)
    cube = cube_of({"t": (tiles, scale_tiles, like, coding)}, grid_at(0, 0, 15, 15, chunk_cells=4))
    decoded = decode(cube)["t"].isel(time=0).compute()
    valid = np.isfinite(scales) if not per_band else np.isfinite(scales).all(axis=2)
    by_hand = codes * (scales if per_band else scales[..., None])
    by_hand[~valid] = np.nan
    np.testing.assert_array_equal(decoded.values, np.moveaxis(by_hand, -1, 0))
    windows = decoded.astype("float64").coarsen(y=CELL_PX, x=CELL_PX)
    with np.errstate(all="ignore"):
        expected = np.concatenate([windows.mean(), windows.std(), windows.max()])
    cells = aggregate(cube).compute()
    np.testing.assert_allclose(
        np.moveaxis(cells["features"].values, -1, 0), expected, rtol=2e-6, atol=1e-6
    )
    require_same_bits(aggregate(cube.compute()).compute(), cells)


def test_a_zarr_store_gives_the_bits_of_npy_tiles(tmp_path: Path) -> None:
    """TESSERA's store of a zone: codes ``(time, band, y, x)`` and scales ``(time, y, x)``."""
    rng = np.random.default_rng(9)
    codes = rng.integers(-128, 128, (60, 60, 5)).astype(np.int8)
    scales = rng.uniform(0.01, 0.2, (60, 60)).astype(np.float32)
    scales[rng.random((60, 60)) < 0.1] = np.nan  # water
    scales[:9, :4] = np.inf  # no data yet
    group = zarr.open_group(tmp_path / "utm32", mode="w", zarr_format=3)
    stored = {
        "embeddings": np.stack([np.zeros_like(codes), codes]).transpose(0, 3, 1, 2),
        "scales": np.stack([np.ones_like(scales), scales]),
    }
    for name, values in stored.items():
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks="auto")
        array[:] = values
    npy = npy_tile(tmp_path, "a", codes, scales, 0, 0)
    keys = {"href": str(tmp_path / "utm32"), "kind": "zarr", "time_index": 1}
    of_store = [
        replace(npy[0], axes="band,y,x", array="embeddings", **keys),
        replace(npy[1], axes="y,x", array="scales", **keys),
    ]
    coding = Coding("int8_times_scale", "finite_scale", None, (1.0,) * 5, (0.0,) * 5)
    like = np.zeros((5, 1, 1), np.int8)
    grid = grid_at(0, 0, 15, 15, chunk_cells=4)
    cubes = [
        cube_of({"t": ([codes_tile], [scale_tile], like, coding)}, grid)
        for codes_tile, scale_tile in (npy, of_store)
    ]
    require_same_bits(cubes[1].compute(), cubes[0].compute())
    require_same_bits(aggregate(cubes[1]).compute(), aggregate(cubes[0]).compute())


def test_layers_of_other_blocks_meet_in_one_table(tmp_path: Path) -> None:
    a, b = noise("int16"), noise("float32", 1)[:, ::-1].copy()
    tile_a = write_tile(tmp_path / "a.tif", a, nodata=0, block_px=16)
    tiles_b = [
        write_tile(tmp_path / "b0.tif", b[:, :, :31], nodata=0),
        write_tile(tmp_path / "b1.tif", b[:, :, 31:], left=31, nodata=0),
    ]
    layers = {"a": ([tile_a], [], a, linear(2, 0)), "b": (tiles_b, [], b, linear(1, 0))}
    cells = aggregate(cube_of(layers, grid_at(0, 0, 15, 15, chunk_cells=4))).compute()
    assert cells["feature"].values.tolist()[-3:] == ["b_b0_mean", "b_b0_std", "b_b0_max"]
    valid = (a > 0).all(axis=0) & (b[0] > 0)
    share = valid.reshape(15, CELL_PX, 15, CELL_PX).mean(axis=(1, 3))
    np.testing.assert_allclose(cells["valid_fraction"].values, share, rtol=1e-6)
    alone = aggregate(cube_of({"b": layers["b"]}, grid_at(0, 0, 15, 15)))
    np.testing.assert_array_equal(cells["features"].values[..., -3:], alone["features"].values)


def test_patches_across_tiles_equal_patches_of_the_whole(tmp_path: Path) -> None:
    scene = noise("float32")
    whole = write_tile(tmp_path / "whole.tif", scene, nodata=0)
    tiles = [
        write_tile(tmp_path / f"{i}.tif", part, top=top, left=left, nodata=0)
        for i, (part, top, left) in enumerate(
            [
                (scene[:, :29], 0, 0),
                (scene[:, 27:, :23], 27, 0),
                (scene[:, 29:, 20:], 29, 20),
            ]
        )
    ]
    rng = np.random.default_rng(0)
    corners = [(X0 + 10 * x, Y0 - 10 * y) for x, y in rng.integers(-5, 58, (200, 2)).tolist()]
    patches = patches_at(*corners, size_m=40)
    features = [
        aggregate_patches(
            cube_of({"a": (t, [], scene, linear(2, 0))}, grid_at(0, 0, 15, 15, chunk_cells=n)),
            patches,
        ).compute()
        for t, n in (([whole], 20), (tiles, 2))
    ]
    require_same_bits(features[1], features[0])


def test_strips_are_kept_only_where_windows_need_them(tmp_path: Path) -> None:
    scene = noise("int16")
    tiles = [
        write_tile(tmp_path / "a.tif", scene[:, :, :30], nodata=0),
        write_tile(tmp_path / "b.tif", scene[:, :, 30:], left=30, nodata=0),
    ]
    cube = cube_of({"a": (tiles, [], scene, linear(2, 0))}, grid_at(0, 0, 15, 15))
    graph = dict(aggregate(cube)["features"].data.dask)
    jobs = [task[-1] for key, task in sorted(graph.items(), key=str) if len(key) == 3]
    assert [job.strips for job in jobs] == [(Rect(0, 28, 60, 30),), (Rect(0, 30, 60, 32),)]


def test_the_graph_of_a_city_is_a_task_a_read_and_a_chunk(tmp_path: Path) -> None:
    scene = noise("int16")
    tile = write_tile(tmp_path / "a.tif", scene, nodata=0)
    cube = cube_of({"a": ([tile], [], scene, linear(2, 0))}, grid_at(0, 0, 15, 15, chunk_cells=5))
    (features,) = dask.optimize(aggregate(cube)["features"].data)
    assert len([key for key in dict(features.dask) if "mosaic" not in str(key)]) == 1 + 9
