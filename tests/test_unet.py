import pickle
import sys
from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from scipy.ndimage import gaussian_filter

from lczcube.errors import GridMismatchError, LabelError, MissingExtraError, ModelError
from lczcube.grid import Grid
from lczcube.models import (
    Area,
    UnetModel,
    UnetParameters,
    context_px,
    load_model,
    predict_unet,
)
from lczcube.models.network import unet_network
from lczcube.models.windowbatches import turned
from tests.made_areas import (
    BANDS,
    HALO,
    PRODUCTS,
    Float32,
    fit,
    made_area,
    made_grid,
    made_image,
    world,
)


@pytest.fixture(scope="module")
def model() -> UnetModel:
    return fit([made_area(made_grid())])


def mapped(
    model: UnetModel, grid: Grid, *, chunks: int | None = 37, window_px: int = 30
) -> xr.Dataset:
    image = made_image(grid, model.context_px, chunks)
    return predict_unet(model, image, grid=grid, halo_px=model.context_px, window_px=window_px)


# what it learns


def test_sparse_labels_teach_the_pixels_between_them_and_beyond(model: UnetModel) -> None:
    grid = made_grid()
    image, zones = world(grid, 0)
    known = np.isfinite(image).all(axis=0)
    assert (mapped(model, grid)["lcz"].values == zones)[known].mean() > 0.95


def test_the_meta_says_what_it_was_trained_on(model: UnetModel) -> None:
    area = made_area(made_grid())
    valid = np.isfinite(world(made_grid(), 0)[0]).all(axis=0)
    assert (model.meta.kind, model.meta.features, model.meta.products) == ("unet", BANDS, PRODUCTS)
    assert model.meta.classes == (3, 6, 17)
    assert model.meta.n_train == int(((area.lcz > 0) & valid).sum())
    assert model.meta.synthetic


def test_bands_are_normalised_by_the_labelled_valid_pixels(model: UnetModel) -> None:
    image, _ = world(made_grid(), 0)
    labelled = (made_area(made_grid()).lcz > 0) & np.isfinite(image).all(axis=0)
    np.testing.assert_allclose(model.state["input.mean"], image[:, labelled].mean(1), rtol=1e-5)
    np.testing.assert_allclose(model.state["input.std"], image[:, labelled].std(1), rtol=1e-4)


def test_two_fits_have_equal_weights_and_another_seed_has_not() -> None:
    quick = UnetParameters(epochs=2, width=4, window_px=16, batch=4)
    area = made_area(made_grid())
    first, again, other = (fit([area], seed=s, parameters=quick) for s in (1, 1, 2))
    assert first.fingerprint == again.fingerprint
    assert all((first.state[k] == again.state[k]).all() for k in first.state)
    assert first.fingerprint != other.fingerprint


def test_a_fit_leaves_torch_as_it_was() -> None:
    import torch

    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    fit([made_area(made_grid())], parameters=UnetParameters(epochs=1, width=4, window_px=16))
    assert torch.rand(3).tolist() == wanted.tolist()
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_label_with_weight_0_is_no_label() -> None:
    area = made_area(made_grid())
    weight = np.where(area.lcz == 6, 0, 1).astype(np.float32)
    quick = UnetParameters(epochs=1, width=4, window_px=16)
    weighted = Area(area.city, area.image, area.lcz, weight, area.halo_px)
    assert fit([weighted], parameters=quick).meta.classes == (3, 17)


def test_dask_and_numpy_images_give_equal_weights() -> None:
    quick = UnetParameters(epochs=1, width=4, window_px=16)
    grid = made_grid()
    area = made_area(grid)
    lazy = Area(area.city, made_image(grid, HALO, chunks=29), area.lcz, halo_px=HALO)
    assert fit([area], parameters=quick).fingerprint == fit([lazy], parameters=quick).fingerprint


def test_only_chunks_under_labels_are_read_and_each_once() -> None:
    grid = made_grid()
    area = made_area(grid, halo_px=0)
    lcz = area.lcz.copy()
    lcz[:, 40:] = 0
    read: list[tuple[int, ...]] = []

    def note(block: Float32, block_id: tuple[int, ...]) -> Float32:
        read.append(block_id)
        return block

    chunked = da.from_array(area.image.values, chunks=(2, 20, 20))
    noted = chunked.map_blocks(note, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    lazy = Area("made", area.image.copy(data=noted), lcz)
    fit([lazy], parameters=UnetParameters(epochs=1, width=4, window_px=16))
    wanted = [(0, row, column) for row in range(3) for column in range(3)]
    assert sorted(read) == wanted
    assert [row for _, row, _ in read] == sorted(row for _, row, _ in read)


def test_the_eight_turns_are_all_different_and_turn_labels_as_images() -> None:
    raster = np.arange(9).reshape(3, 3)
    found = {turned(raster, turn).tobytes() for turn in range(8)}
    assert len(found) == 8
    stack = np.stack([raster, raster])
    assert all((turned(stack, t)[1] == turned(raster, t)).all() for t in range(8))


# what the map promises


def test_the_map_does_not_depend_on_chunks(model: UnetModel) -> None:
    whole = mapped(model, made_grid(chunk_cells=30), chunks=None).compute()
    for chunk_cells, chunks, window_px in ((10, 11, 30), (13, 50, 1), (3, 37, 9), (3, 37, 45)):
        grid = made_grid(chunk_cells=chunk_cells)
        cut = mapped(model, grid, chunks=chunks, window_px=window_px).compute()
        np.testing.assert_array_equal(cut["lcz"], whole["lcz"])
        difference = cut["probability"].astype(int) - whole["probability"].astype(int)
        assert np.abs(difference).max() <= 1


def test_probabilities_are_those_of_one_pass_over_the_whole_image(model: UnetModel) -> None:
    import torch

    grid = made_grid()
    image, _ = world(grid, HALO)
    mean, std = (model.state[name][:, None, None] for name in ("input.mean", "input.std"))
    valid = np.asarray(np.isfinite(image).all(axis=0))
    inputs = np.where(valid, (image - mean) / std, 0)
    stacked = np.concatenate([inputs, valid[None]])[None, :, :120, :124].astype(np.float32)
    with torch.inference_mode():
        logits = model.network(torch.from_numpy(stacked))[0, :, HALO:96, HALO:102]
        wanted = torch.softmax(logits, dim=0).numpy()
    percent = mapped(model, grid)["probability"].sel(lcz_class=[3, 6, 17]).values
    known = valid[HALO:-HALO, HALO:-HALO]
    assert np.abs(percent / 100 - wanted)[:, known].max() <= 0.005 + 1e-3


def test_the_map_does_not_depend_on_the_bbox(model: UnetModel) -> None:
    large, small = made_grid(), made_grid(x0=3, y0=2, x1=24, y1=19)
    whole, part = mapped(model, large).compute(), mapped(model, small).compute()
    inside = whole.isel(y=slice(15, 66), x=slice(9, 72))
    np.testing.assert_array_equal(part["lcz"].values, inside["lcz"].values)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_pixel_sees_no_farther_than_the_context(depth: int) -> None:
    import torch

    torch.manual_seed(0)
    network = unet_network(3, 3, width=8, depth=depth, band_dropout=0, dropout=0).eval()
    reach = context_px(UnetParameters(depth=depth))
    side = 2 * reach + 3 * 2**depth
    seen = 0
    for at in range(side // 2, side // 2 + 2**depth):
        image = torch.randn(1, 3, side, side, requires_grad=True)
        (gradient,) = torch.autograd.grad(network(image)[0, :, at, at].sum(), image)
        rows, columns = np.nonzero(np.abs(gradient[0].numpy()).sum(axis=0))
        seen = max(seen, *np.abs(rows - at), *np.abs(columns - at))
    assert reach - 2**depth < seen <= reach


def test_nodata_is_where_the_pixel_itself_is_invalid_only(model: UnetModel) -> None:
    grid = made_grid()
    invalid = ~np.isfinite(world(grid, 0)[0]).all(axis=0)
    found = mapped(model, grid).compute()
    np.testing.assert_array_equal(found["lcz"] == 0, invalid)
    np.testing.assert_array_equal(found["confidence"] == 255, invalid)
    np.testing.assert_array_equal((found["probability"] == 255).any("lcz_class"), invalid)


def test_an_image_without_any_valid_pixel_gives_no_data(model: UnetModel) -> None:
    grid = made_grid()
    image = made_image(grid) * np.float32(np.nan)
    found = predict_unet(model, image, grid=grid, halo_px=HALO, products=PRODUCTS)
    assert set(np.unique(found["lcz"].values)) == {0}


def test_the_map_is_lazy_on_the_grid_in_its_chunks(model: UnetModel) -> None:
    grid = made_grid()
    found = mapped(model, grid)
    assert found["lcz"].shape == grid.shape
    assert found["lcz"].chunks == ((30, 30, 12), (30, 30, 18))
    assert found["probability"].dims == ("lcz_class", "y", "x")
    assert {str(v.dtype) for v in found.data_vars.values()} == {"uint8"}


def test_coordinates_of_the_image_are_kept_without_the_halo(model: UnetModel) -> None:
    grid = made_grid()
    image = made_image(grid)
    image = image.assign_coords(y=np.arange(image.sizes["y"]), x=np.arange(image.sizes["x"]))
    found = predict_unet(model, image, grid=grid, halo_px=HALO)
    assert found["y"].values[[0, -1]].tolist() == [HALO, HALO + grid.shape[0] - 1]
    assert found["x"].values[[0, -1]].tolist() == [HALO, HALO + grid.shape[1] - 1]


def test_a_larger_halo_changes_nothing(model: UnetModel) -> None:
    grid = made_grid()
    wide = predict_unet(model, made_image(grid, 40, 33), grid=grid, halo_px=40)
    np.testing.assert_array_equal(wide["lcz"], mapped(model, grid)["lcz"])


def test_a_loaded_model_maps_the_same(model: UnetModel, tmp_path: Path) -> None:
    model.save(tmp_path / "unet")
    loaded = load_model(tmp_path / "unet")
    assert isinstance(loaded, UnetModel)
    assert (loaded.meta, loaded.fingerprint) == (model.meta, model.fingerprint)
    grid = made_grid(x1=10, y1=10)
    xr.testing.assert_identical(mapped(loaded, grid).compute(), mapped(model, grid).compute())
    assert sorted(p.name for p in (tmp_path / "unet").iterdir()) == [
        "history.json",
        "model.json",
        "weights.safetensors",
    ]


def test_saving_twice_gives_the_same_bytes(model: UnetModel, tmp_path: Path) -> None:
    for name in ("one", "two"):
        model.save(tmp_path / name)
    for name in ("model.json", "weights.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_pickled_model_is_the_same(model: UnetModel) -> None:
    assert pickle.loads(pickle.dumps(model)).fingerprint == model.fingerprint


def jump_ratio(probability: npt.NDArray[np.generic], edges: npt.NDArray[np.int64]) -> float:
    """Mean step of a map between columns at window edges, over that between all others."""
    steps = np.abs(np.diff(probability.astype(float), axis=-1)).mean(axis=(0, 1))
    at_edge = np.isin(np.arange(1, probability.shape[-1]), edges)
    return float(steps[at_edge].mean() / steps[~at_edge].mean())


def test_windows_leave_no_seam_and_windows_without_context_do() -> None:
    """On smooth noise: there, what a network says of a pixel depends on all it sees around it."""
    grid = made_grid(x1=60, y1=30)
    area = made_area(grid)
    drawn = np.random.default_rng(0).normal(size=area.image.shape)
    noise = gaussian_filter(drawn, (0, 4, 4)).astype(np.float32)
    noisy = Area("noise", area.image.copy(data=noise), area.lcz, halo_px=HALO)
    plain = UnetParameters(epochs=5, width=6, dropout=0, band_dropout=0, noise=0)
    model = fit([noisy], parameters=plain)
    edges = np.arange(30, 180, 30)
    whole = predict_unet(model, noisy.image, grid=grid, halo_px=HALO, window_px=30)
    ratio = jump_ratio(whole["probability"].values, edges)
    pieces = []
    for left in range(0, 180, 30):
        cut = np.full((2, noise.shape[1], 30 + 2 * HALO), np.nan, np.float32)
        inside = noise[:, HALO:-HALO, HALO + left : HALO + left + 30]
        cut[:, HALO:-HALO, HALO:-HALO] = inside
        part = made_grid(x0=left // 3, x1=left // 3 + 10, y1=30)
        alone = made_image(part).copy(data=cut)
        pieces.append(predict_unet(model, alone, grid=part, halo_px=HALO)["probability"].values)
    ratio_alone = jump_ratio(np.concatenate(pieces, axis=-1), edges)
    print(f"steps at window edges: {ratio:.2f} of others, without context {ratio_alone:.2f}")
    assert 0.85 < ratio < 1.15
    assert ratio_alone > 1.5


# what is refused


def test_an_image_of_other_bands_is_refused(model: UnetModel) -> None:
    grid = made_grid()
    image = made_image(grid).assign_coords(band=["green", "red"])
    with pytest.raises(ModelError, match="number 0 is 'green', not 'red'"):
        predict_unet(model, image, grid=grid, halo_px=HALO)


def test_an_image_of_another_product_is_refused(model: UnetModel) -> None:
    grid = made_grid()
    image = made_image(grid)
    with pytest.raises(ModelError, match="trained on made/1, these features are of made/2"):
        predict_unet(model, image, grid=grid, halo_px=HALO, products=("made/2",))


def test_a_halo_below_the_context_is_refused(model: UnetModel) -> None:
    grid = made_grid()
    with pytest.raises(GridMismatchError, match="10 px past the grid and the model sees 24"):
        predict_unet(model, made_image(grid, 10), grid=grid, halo_px=10)


def test_an_image_off_the_grid_is_refused(model: UnetModel) -> None:
    grid = made_grid()
    with pytest.raises(GridMismatchError, match="on this grid with a halo of 24 px it is"):
        predict_unet(model, made_image(grid)[:, 1:], grid=grid, halo_px=HALO)


def test_labels_off_the_image_are_refused() -> None:
    area = made_area(made_grid())
    with pytest.raises(GridMismatchError, match="image of made has dims"):
        fit([Area("made", area.image, area.lcz[1:], halo_px=HALO)])


def test_a_code_18_is_refused() -> None:
    area = made_area(made_grid())
    area.lcz[0, 0] = 18
    with pytest.raises(LabelError, match="labels of made hold LCZ code 18"):
        fit([area])


def test_labels_on_invalid_pixels_only_are_refused() -> None:
    area = made_area(made_grid())
    blank = Area("made", area.image * np.float32(np.nan), area.lcz, halo_px=HALO)
    with pytest.raises(ModelError, match="no labelled sample with valid features"):
        fit([blank])


def test_one_class_is_refused() -> None:
    area = made_area(made_grid())
    one = Area("made", area.image, np.where(area.lcz == 6, area.lcz, 0), halo_px=HALO)
    with pytest.raises(ModelError, match="only LCZ 6"):
        fit([one])


@pytest.mark.parametrize(
    ("window_px", "depth", "said"),
    [
        (18, 2, "window_px = 18: with depth 2 it is a multiple of 4 .*use 20"),
        (16, 4, "window_px = 16: with depth 4 .* at least 32; use 32"),
        (3, 1, "use 4"),
    ],
)
def test_a_window_that_cannot_be_halved_is_refused(window_px: int, depth: int, said: str) -> None:
    parameters = UnetParameters(window_px=window_px, depth=depth)
    with pytest.raises(ModelError, match=said):
        fit([made_area(made_grid())], parameters=parameters)


def test_a_batch_of_one_window_of_the_least_side_is_learnt_from() -> None:
    area = made_area(made_grid())
    least = UnetParameters(epochs=1, width=2, depth=3, window_px=16, batch=1)
    one = np.zeros_like(area.lcz)
    one[:16, :16] = area.lcz[:16, :16]
    assert fit([replace(area, lcz=one)], parameters=least).meta.classes == (3, 6)


def test_a_diverging_fit_stops() -> None:
    wild = UnetParameters(epochs=3, width=4, window_px=16, learning_rate=1e30)
    with pytest.raises(ModelError, match=r"training diverged\. Lower learning_rate"):
        fit([made_area(made_grid())], parameters=wild)


def test_without_torch_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lczcube\[unet\]'"):
        fit([made_area(made_grid())])
