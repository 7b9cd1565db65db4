import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lczcube.errors import ModelError, StoreError
from lczcube.models import Area, UnetModel, UnetParameters, fit_unet, predict_unet
from lczcube.models.checkpoints import CHECKPOINT_NAME
from lczcube.models.inputs import Inputs, layers_valid
from lczcube.models.sampler import LabelledWindows, scan, windows_on_disk
from lczcube.models.windowbatches import WindowBatches
from tests.made_areas import (
    BANDS,
    HALO,
    PRODUCTS,
    TINY,
    Float32,
    fit,
    made_area,
    made_grid,
    made_image,
)

QUICK = UnetParameters(epochs=2, width=4, window_px=16, batch=4, dropout=0.2)
LAYERED = ("a_red", "a_green", "canopy")


def layered(image: xr.DataArray, *, canopy: Float32 | None = None) -> xr.DataArray:
    """The two bands as layer ``a``, and a third band as layer ``canopy``."""
    third = image.values[0] * 2 if canopy is None else canopy
    values = np.concatenate([image.values, third[None]])
    coords = {"band": list(LAYERED), "layer": ("band", ["a", "a", "canopy"])}
    return xr.DataArray(values, dims=("band", "y", "x"), coords=coords, attrs=image.attrs)


def fit_layered(areas: list[Area], parameters: UnetParameters = QUICK) -> UnetModel:
    return fit_unet(areas, seed=0, bands=LAYERED, products=PRODUCTS, parameters=parameters)


def mapped(model: UnetModel, image: xr.DataArray) -> npt.NDArray[np.uint8]:
    found = predict_unet(model, image, grid=made_grid(), halo_px=HALO)
    percent: npt.NDArray[np.uint8] = found["probability"].values
    return percent


# layers and masks


@given(
    hnp.arrays(
        np.float32,
        (2, 3, 4, 5),
        elements=st.sampled_from([np.nan, np.inf, -np.inf, -3, 0.5, 2, 70000]),
    )
)
@settings(max_examples=50, deadline=None)
def test_a_layer_is_masked_where_any_of_its_bands_is_not_finite(image: Float32) -> None:
    inputs = Inputs(
        np.array([1, 2, 3], np.float32), np.array([2, 4, 5], np.float32), np.array([0, 0, 1])
    )
    channels = inputs.channels(image)
    assert (inputs.n_channels, channels.dtype) == (5, np.float32)
    for n, y, x in np.ndindex(2, 4, 5):
        pixel = image[n, :, y, x].astype(float)
        first, second = np.isfinite(pixel[:2]).all(), np.isfinite(pixel[2])
        wanted = [*(((pixel[:2] - [1, 2]) / [2, 4]) if first else (0, 0))]
        wanted += [(pixel[2] - 3) / 5 if second else 0, first, second]
        np.testing.assert_allclose(channels[n, :, y, x], wanted, rtol=1e-6)


def test_a_pixel_without_canopy_is_mapped_and_one_without_embedding_is_not() -> None:
    area = made_area(made_grid())
    canopy = area.image.values[0] * 2
    canopy[:, 60:90] = np.nan
    image = layered(area.image, canopy=canopy)
    model = fit_layered([replace(area, image=image)])
    known = mapped(model, image)[0] != 255
    embedding = np.isfinite(made_image(made_grid(), 0).values).all(axis=0)
    np.testing.assert_array_equal(known, embedding)
    assert np.isnan(canopy[HALO:-HALO, HALO:-HALO][embedding]).any()


def test_a_city_that_lacks_a_layer_is_trained_on_and_mapped() -> None:
    area = made_area(made_grid())
    blank = np.full(area.image.shape[1:], np.nan, np.float32)
    both = [
        replace(area, image=layered(area.image)),
        replace(area, city="bare", image=layered(area.image, canopy=blank)),
    ]
    model = fit_layered(both, replace(TINY, epochs=15, layer_dropout=0.3))
    truth = area.lcz
    for one in both:
        lcz = mapped(model, one.image).argmax(axis=0) + 1
        right = (lcz == truth)[(truth > 0) & (mapped(model, one.image)[0] != 255)]
        assert right.mean() > 0.9


def test_the_bands_of_a_layer_are_normalised_by_its_own_valid_pixels() -> None:
    area = made_area(made_grid())
    canopy = area.image.values[0] * 2
    canopy[:, 60:90] = np.nan
    image = layered(area.image, canopy=canopy)
    model = fit_layered([replace(area, image=image)], replace(QUICK, epochs=1))
    inside = image.values[:, HALO:-HALO, HALO:-HALO]
    labelled = (area.lcz > 0) & np.isfinite(inside[:2]).all(axis=0)
    heights = inside[2][labelled]
    assert model.state["input.mean"][2] == pytest.approx(np.nanmean(heights), rel=1e-5)
    assert model.state["input.mean"][0] == pytest.approx(inside[0][labelled].mean(), rel=1e-5)
    assert model.state["input.layer"].tolist() == [0, 0, 1]


def test_a_layer_that_no_label_has_is_refused() -> None:
    area = made_area(made_grid())
    blank = np.full(area.image.shape[1:], np.nan, np.float32)
    with pytest.raises(ModelError, match="layer canopy has no valid pixel under any label"):
        fit_layered([replace(area, image=layered(area.image, canopy=blank))])


def test_cities_with_other_bands_or_layers_are_refused() -> None:
    area = made_area(made_grid())
    one = replace(area, image=layered(area.image))
    swapped = one.image.assign_coords(band=["a_red", "canopy", "a_green"])
    with pytest.raises(ModelError, match="image of made has band 'canopy' where 'a_green'"):
        fit_layered([one, replace(one, image=swapped)])
    renamed = one.image.assign_coords(layer=("band", ["a", "a", "height"]))
    with pytest.raises(ModelError, match="image of made has layer 'height' where 'canopy'"):
        fit_layered([one, replace(one, image=renamed)])


def test_bands_of_a_layer_that_do_not_lie_together_are_refused() -> None:
    area = made_area(made_grid())
    mixed = layered(area.image).assign_coords(layer=("band", ["a", "canopy", "a"]))
    with pytest.raises(ModelError, match="bands of layer a lie on both sides of another layer's"):
        fit_layered([replace(area, image=mixed)])


def test_layer_dropout_hides_whole_layers_but_never_the_first() -> None:
    n, side = 400, 2
    image = xr.DataArray(np.full((3, side, n * side), 5, np.float32), dims=("band", "y", "x"))
    lcz = np.ones((n, side, side), np.uint8)
    columns = np.arange(n) * side
    cut = LabelledWindows(
        "made", image, np.zeros(n, int), columns,
        lambda ids: (lcz[ids], lcz[ids].astype(np.float32)),
    )  # fmt: skip
    parameters = UnetParameters(noise=0, layer_dropout=0.25, batch=n)
    layer = np.array([0, 1, 1])
    with windows_on_disk([cut], side=side, label_side=side, scratch=None) as windows:
        inputs = Inputs(np.zeros(3, np.float32), np.ones(3, np.float32), layer)
        taught = scan(windows, layer).taught
        rest = (inputs, np.array([1], np.uint8), np.ones(18), parameters)
        batches = WindowBatches(windows, taught, *rest)
        channels = batches.of_step(0, np.arange(n), np.random.default_rng(0)).channels
    assert (channels[:, [0, 3]] == [[[[5]], [[1]]]]).all()
    hidden = (channels[:, 4] == 0).all(axis=(1, 2))
    assert ((channels[:, 1:3] == 0).all(axis=(1, 2, 3)) == hidden).all()
    assert ((channels[:, 4] == 1).all(axis=(1, 2)) == ~hidden).all()
    # Binomial of 400 at 0.25: four standard deviations are 35.
    assert 65 < hidden.sum() < 135


def test_an_infinite_value_is_an_invalid_pixel() -> None:
    area = made_area(made_grid())
    values = area.image.values.copy()
    spots = np.random.default_rng(0).random(values.shape[1:]) < 0.1
    infinite, missing = values.copy(), values.copy()
    infinite[1, spots], missing[1, spots] = np.inf, np.nan
    models = [
        fit([replace(area, image=area.image.copy(data=v))], parameters=QUICK)
        for v in (infinite, missing)
    ]
    assert (models[0].state["input.mean"] == models[1].state["input.mean"]).all()
    assert all((models[0].state[k] == models[1].state[k]).all() for k in models[0].state)
    np.testing.assert_array_equal(
        mapped(models[0], area.image.copy(data=infinite)),
        mapped(models[0], area.image.copy(data=missing)),
    )


def test_a_chunk_without_a_valid_pixel_teaches_nothing() -> None:
    area = made_area(made_grid())
    values = area.image.values.copy()
    values[:, :, 70:] = np.nan
    lcz = area.lcz.copy()
    lcz[:, 70 - HALO :] = 0
    holed = Area("made", area.image.copy(data=values), area.lcz, halo_px=HALO)
    without = Area("made", area.image.copy(data=values), lcz, halo_px=HALO)
    one, other = (fit([a], parameters=QUICK) for a in (holed, without))
    assert one.meta.n_train == other.meta.n_train
    assert all((one.state[k] == other.state[k]).all() for k in one.state)


# windows on disk


def test_the_windows_leave_no_file_and_have_no_name(tmp_path: Path) -> None:
    seen: list[list[Path]] = []
    area = made_area(made_grid())

    def note(block: Float32) -> Float32:
        seen.append(list(tmp_path.iterdir()))
        return block

    image = area.image.copy(data=area.image.chunk(y=40).data.map_blocks(note, dtype=np.float32))
    fit_unet([replace(area, image=image)], seed=0, bands=BANDS, products=PRODUCTS,
             parameters=replace(QUICK, epochs=1), scratch=tmp_path)  # fmt: skip
    assert seen
    assert not any(seen)
    assert list(tmp_path.iterdir()) == []


def test_windows_that_do_not_fit_on_the_disk_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 10))
    with pytest.raises(StoreError, match=r"has 0\.0 GB left; name another folder as scratch"):
        fit_unet([made_area(made_grid())], seed=0, bands=BANDS, products=PRODUCTS,
                 parameters=QUICK, scratch=tmp_path)  # fmt: skip


PEAK = """
import sys
import dask, dask.array as da, numpy as np, xarray as xr
from lczcube.models import Area, UnetParameters, fit_unet
from lczcube.models import sampler
sampler.READ_BYTES = sampler.SCAN_BYTES = 8 << 20

if __name__ == "__main__":
    rows = int(sys.argv[1])
    def block(block_info=None):
        (top, _), (left, _) = block_info[None]["array-location"][1:]
        noise = np.random.default_rng(top + left).standard_normal((32, 128, 128), np.float32)
        return noise
    chunks = ((32,), (128,) * rows, (128,) * 8)
    data = da.map_blocks(block, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0, 0), "f4"))
    lcz = np.where(np.random.default_rng(0).random(data.shape[1:]) < 0.1, 3, 6).astype(np.uint8)
    area = Area("made", xr.DataArray(data, dims=("band", "y", "x")), lcz)
    bands = tuple(f"b{i}" for i in range(32))
    parameters = UnetParameters(epochs=1, width=2, depth=1, window_px=16, batch=64)
    with dask.config.set(scheduler="synchronous"):
        fit_unet([area], seed=0, bands=bands, products=(), parameters=parameters)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_the_peak_of_training_does_not_grow_with_the_labelled_area() -> None:
    """16 and 128 MiB of labelled pixels."""
    peaks = []
    for rows in (1, 8):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PEAK, str(rows)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    print(f"peaks {peaks[0] / 2**20:.0f} and {peaks[1] / 2**20:.0f} MiB")
    assert peaks[1] < 1.1 * peaks[0]


# checkpoints

KILLED = """
import sys
from pathlib import Path
from dataclasses import replace
from lczcube.models import trainingrun
from tests.made_areas import BANDS, PRODUCTS, TINY, made_area, made_grid
from lczcube.models import fit_unet
trainingrun.CHECKPOINT_S = 0.0

if __name__ == "__main__":
    area = made_area(made_grid())
    parameters = replace(TINY, dropout=0.3, band_dropout=0.2)
    fit_unet([area], seed=3, bands=BANDS, products=PRODUCTS, parameters=parameters,
             valid=[area], checkpoint=sys.argv[1])
"""


def progress_of(folder: Path) -> dict[str, int] | None:
    """What the checkpoint says of itself; None while there is none."""
    from safetensors import safe_open

    if not (folder / CHECKPOINT_NAME).is_file():
        return None
    with safe_open(folder / CHECKPOINT_NAME, framework="numpy") as file:
        found: dict[str, int] = json.loads(file.metadata()["state"])["progress"]
    return found


def test_a_fit_that_is_killed_in_mid_epoch_ends_with_the_same_bits(tmp_path: Path) -> None:
    area = made_area(made_grid())
    parameters = replace(TINY, dropout=0.3, band_dropout=0.2)

    def again(folder: Path | None) -> UnetModel:
        return fit_unet([area], seed=3, bands=BANDS, products=PRODUCTS, parameters=parameters,
                        valid=[area], checkpoint=folder)  # fmt: skip

    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ | {"PYTHONPATH": paths}
    )
    at = None
    while child.poll() is None and (at is None or at["epoch"] < 2 or at["step"] != 2):
        time.sleep(0.001)
        at = progress_of(tmp_path)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    at = progress_of(tmp_path)
    assert at is not None
    assert 2 <= at["epoch"] < 20
    resumed, whole = again(tmp_path), again(None)
    assert resumed.history == whole.history
    assert all((resumed.state[k] == whole.state[k]).all() for k in whole.state)
    assert resumed.fingerprint == whole.fingerprint


def test_a_finished_fit_is_not_done_again(tmp_path: Path) -> None:
    from lczcube.models.trainingrun import _Run

    area = made_area(made_grid())
    first = fit_unet([area], seed=0, bands=BANDS, products=PRODUCTS, parameters=QUICK,
                     checkpoint=tmp_path)  # fmt: skip
    stamp = (tmp_path / CHECKPOINT_NAME).read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_step", None)
        again = fit_unet([area], seed=0, bands=BANDS, products=PRODUCTS, parameters=QUICK,
                         checkpoint=tmp_path)  # fmt: skip
    assert again.fingerprint == first.fingerprint
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == stamp


def test_a_checkpoint_of_other_data_or_parameters_is_not_gone_on_with(tmp_path: Path) -> None:
    area = made_area(made_grid())
    moved = area.image.copy(data=area.image.values + 1)
    for other in (
        {"parameters": replace(QUICK, learning_rate=1e-4)},
        {"seed": 9},
        {"areas": [replace(area, image=moved)]},
    ):
        asked = {"areas": [area], "seed": 0, "parameters": QUICK} | other
        fit_unet([area], seed=0, bands=BANDS, products=PRODUCTS, parameters=QUICK,
                 checkpoint=tmp_path)  # fmt: skip
        said, fresh = (
            fit_unet(**asked, bands=BANDS, products=PRODUCTS, checkpoint=folder)  # type: ignore[arg-type]
            for folder in (tmp_path, None)
        )
        assert said.fingerprint == fresh.fingerprint


def test_a_damaged_checkpoint_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"is no checkpoint.*Delete it to start anew"):
        fit_unet([made_area(made_grid())], seed=0, bands=BANDS, products=PRODUCTS,
                 parameters=QUICK, checkpoint=tmp_path)  # fmt: skip


# early stopping


def unseen_loss(model: UnetModel, area: Area) -> float:
    """Mean cross-entropy of a model over the labels of an area, window by window."""
    import torch

    side, halo, losses = model.parameters.window_px, area.halo_px, []
    image = np.pad(area.image.values[:, halo:-halo, halo:-halo], ((0, 0), (0, 16), (0, 16)),
                   constant_values=np.nan)  # fmt: skip
    for top, left in np.ndindex(-(-area.lcz.shape[0] // side), -(-area.lcz.shape[1] // side)):
        rows, columns = (slice(at * side, at * side + side) for at in (top, left))
        window, lcz = image[None, :, rows, columns], area.lcz[rows, columns]
        lcz = np.pad(lcz, ((0, side - lcz.shape[0]), (0, side - lcz.shape[1])))
        valid = layers_valid(window, model.inputs.layer)[0, 0] & (lcz > 0)
        with torch.inference_mode():
            logits = model.network(torch.from_numpy(model.inputs.channels(window)))
            probability = torch.softmax(logits, dim=1)[0].numpy()
        at = np.searchsorted(model.meta.classes, lcz[valid])
        losses += (-np.log(probability[:, valid][at, np.arange(len(at))])).tolist()
    return float(np.mean(losses))


def test_a_fit_stops_when_unseen_areas_get_worse_and_keeps_the_best_weights() -> None:
    """Zones that are swapped in the unseen area: what is learned of them makes its loss rise."""
    area = made_area(made_grid())
    swapped = np.array([0, 0, 0, 6, 0, 0, 3] + [0] * 10 + [17], np.uint8)[area.lcz]
    unseen = replace(area, city="unseen", lcz=swapped)
    parameters = replace(TINY, balance=0, patience=3, learning_rate=2e-3)
    model = fit_unet([area], seed=0, bands=BANDS, products=PRODUCTS, parameters=parameters,
                     valid=[unseen])  # fmt: skip
    losses = [told["valid_loss"] for told in model.history]
    assert len(losses) < parameters.epochs
    assert int(np.argmin(losses)) == len(losses) - 1 - parameters.patience
    assert unseen_loss(model, unseen) == pytest.approx(min(losses), rel=1e-3)
    assert all(0 <= told["valid_macro_f1"] <= 1 for told in model.history)


def test_the_history_is_kept_with_the_model(tmp_path: Path) -> None:
    area = made_area(made_grid())
    model = fit_unet([area], seed=0, bands=BANDS, products=PRODUCTS, parameters=QUICK,
                     valid=[area, replace(area, city="second")])  # fmt: skip
    assert [set(told) for told in model.history] == [{"loss", "valid_loss", "valid_macro_f1"}] * 2
    model.save(tmp_path / "unet")
    assert UnetModel.load(tmp_path / "unet").history == model.history


def test_unseen_areas_without_a_label_that_counts_are_refused() -> None:
    area = made_area(made_grid())
    other = replace(area, lcz=np.where(area.lcz > 0, 9, 0).astype(np.uint8))
    with pytest.raises(ModelError, match=r"hold no label .* trained on \(3, 6, 17\)"):
        fit_unet([area], seed=0, bands=BANDS, products=PRODUCTS, parameters=QUICK, valid=[other])


def test_unseen_windows_of_other_classes_alone_do_not_count() -> None:
    """Zone 9 fills the first batch of the validation: no label in it is of a class that trains."""
    area = made_area(made_grid())
    is_top = np.arange(area.lcz.shape[0])[:, None] < QUICK.window_px
    strange = replace(area, lcz=np.where(is_top & (area.lcz > 0), 9, area.lcz).astype(np.uint8))
    without = replace(area, lcz=np.where(is_top, 0, area.lcz).astype(np.uint8))
    model = fit_unet([area], seed=0, bands=BANDS, products=PRODUCTS, valid=[strange],
                     parameters=replace(QUICK, balance=0))  # fmt: skip
    losses = [told["valid_loss"] for told in model.history]
    assert unseen_loss(model, without) == pytest.approx(min(losses), rel=1e-3)


def test_a_validation_loss_that_is_not_a_number_is_refused() -> None:
    """One step an epoch: the loss of the training is told before the step that diverges."""
    area = made_area(made_grid())
    wild = replace(QUICK, batch=64, learning_rate=1e30)
    with pytest.raises(ModelError, match=r"unet validation loss is (nan|inf): training diverged"):
        fit_unet([area], seed=0, bands=BANDS, products=PRODUCTS, parameters=wild, valid=[area])


# devices


def test_a_gpu_that_is_not_there_is_refused_and_a_map_falls_back_to_the_cpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ModelError, match=r'device = "cuda": torch finds no CUDA device'):
        fit([made_area(made_grid())], parameters=replace(QUICK, device="cuda"))
    model = fit([made_area(made_grid())], parameters=QUICK)
    asked = replace(model.meta, parameters=model.meta.parameters | {"device": "cuda"})
    elsewhere = UnetModel(asked, model.state)
    assert elsewhere.device == "cpu"
    np.testing.assert_array_equal(
        mapped(elsewhere, made_image(made_grid())), mapped(model, made_image(made_grid()))
    )


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_a_gpu_learns_the_same_and_maps_as_the_cpu_does(precision: str) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here: the path on a GPU is not tested on this machine")
    area = made_area(made_grid())
    on_gpu = replace(TINY, device="cuda", precision=precision)  # type: ignore[arg-type]
    model = fit([area], parameters=on_gpu)
    asked = replace(model.meta, parameters=model.meta.parameters | {"device": "cpu"})
    here = mapped(UnetModel(asked, model.state), area.image)
    there = mapped(model, area.image)
    assert np.abs(here.astype(int) - there.astype(int)).max() <= 1
    assert ((there.argmax(axis=0) + 1 == area.lcz)[(area.lcz > 0) & (there[0] != 255)]).mean() > 0.9


def test_mixed_precision_learns_on_a_cpu() -> None:
    area = made_area(made_grid())
    model = fit([area], parameters=replace(TINY, precision="mixed"))
    said = mapped(model, area.image)
    assert ((said.argmax(axis=0) + 1 == area.lcz)[(area.lcz > 0) & (said[0] != 255)]).mean() > 0.9
    assert {str(v.dtype) for k, v in model.state.items() if k.endswith("weight")} == {"float32"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("epochs", 0, "at least 1"),
        ("patience", 0, "at least 1"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", float("nan"), "above 0"),
        ("noise", -1.0, "at least 0"),
        ("layer_dropout", 1.0, r"in \[0, 1\)"),
        ("device", "tpu", "it is cpu or cuda"),
        ("precision", "half", "it is auto or float32 or mixed"),
    ],
)
def test_a_parameter_out_of_its_range_is_refused(key: str, value: object, said: str) -> None:
    with pytest.raises(ModelError, match=f"unet {key} = .*{said}"):
        fit([made_area(made_grid())], parameters=replace(QUICK, **{key: value}))  # type: ignore[arg-type]
