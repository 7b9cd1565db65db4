"""Do pseudo-labels help? Models trained on few labels, against the same labels and pseudo-labels.

Run in the project's folder, with ``LCZCUBE_REALDATA`` set for Hong Kong::

    python benchmarks/pseudo_labels.py WORK --models xgb                # both worlds, five seeds
    python benchmarks/pseudo_labels.py WORK --models xgb --sweep        # weights, cuts, statistics
    python benchmarks/pseudo_labels.py WORK --models unet --worlds hongkong --settings blind
    python benchmarks/pseudo_labels.py WORK --models xgb --arm "strict: propagate.k=5"
    python benchmarks/pseudo_labels.py WORK --table                     # only what is there already

``WORK`` keeps the aggregated worlds and ``results.jsonl``, a line a fit; what is there is not done
again while the package's code is the same. ``WORK/table.md`` and ``table.json`` hold the summary.
An arm is ``NAME: KEY=VALUE, …`` in TOML's words, or ``NAME < REFERENCE: …``; its scores are
compared with those of the reference, by default ``labels``, seed by seed.

Hong Kong: N polygons of each class are drawn, and all other polygons of the file are scored, each
by its pixels. ``blind``: the run never hears of them, so nothing of them can matter; pseudo-labels
may lie on their ground, as they lie on any ground of a city that is to be mapped. ``given``: they
are in the label file as the split that is scored, and no pseudo-label lies on or near them.

Synthetic world: N patches of each class, in ``both`` cities or in the ``north`` one; cells of one
class that no drawn patch touches are scored by the true map. A seed is a world of its own. The
U-Net says of a cell what most of its pixels say.
"""

import argparse
import hashlib
import json
import os
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import rasterio
import shapely
import xarray as xr
from sklearn.metrics import f1_score

import lczcube
from lczcube.config import read_config
from lczcube.labels.samples import read_samples, write_samples
from lczcube.learners import LEARNERS
from lczcube.models import XgbModel
from lczcube.pipeline import run_stages
from lczcube.products import open_product
from lczcube.runfolder import Run, open_run
from lczcube.runtime import open_scheduler
from lczcube.stages import TO_PROPAGATE
from lczcube.synth import write_world
from lczcube.training import predict_maps

PROJECT = Path(__file__).resolve().parents[1]

Codes = npt.NDArray[np.uint8]
Table = dict[str, Any]
Key = tuple[Any, ...]

PROPAGATE = TO_PROPAGATE[-1]
METRICS = {
    "hongkong": ("oa", "macro_f1", "polygons"),
    "synthetic": ("oa", "macro_f1", "of_optimum", "oa_north", "oa_south"),
}
KEY_COLUMNS = ["world", "seed", "size", "setting", "model", "arm"]


@dataclass(frozen=True)
class Arm:
    """A way to train: settings over those of the world, and what it is compared with."""

    name: str
    settings: Mapping[str, Any]
    reference: str = "labels"

    @property
    def trains_on_labels_alone(self) -> bool:
        return self.settings.get("run.pseudo_weight") == 0

    @property
    def stats(self) -> tuple[str, ...]:
        return tuple(self.settings.get("run.stats", ()))


WEIGHT = 0.5
"""Of a pseudo-label where an arm says no other; a run's own default is 0, as this found."""

LABELS = Arm("labels", {"run.pseudo_weight": 0.0})
PSEUDO = Arm("pseudo", {})
MEAN = ("mean",)
SWEEP = (
    Arm("weight 0.1", {"run.pseudo_weight": 0.1}),
    Arm("weight 1", {"run.pseudo_weight": 1.0}),
    Arm("50 a class", {"run.pseudo_per_class": 50}),
    Arm("cut 0.6", {"propagate.min_confidence": 0.6}),
    Arm("cut 0.95", {"propagate.min_confidence": 0.95}),
    Arm("mean", {"run.stats": MEAN, "run.pseudo_weight": 0.0}),
    Arm("mean pseudo", {"run.stats": MEAN}, "mean"),
)


def arm_of_text(text: str) -> Arm:
    name, _, settings = text.partition(":")
    name, _, reference = (part.strip() for part in name.partition("<"))
    flat = dict(_flat(tomllib.loads(f"x = {{{settings}}}")["x"]))
    return Arm(name, flat, reference or "labels")


def _flat(table: Table, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def with_settings(config: Table, settings: Mapping[str, Any]) -> Table:
    changed = deepcopy(config)
    for key, value in settings.items():
        *tables, last = key.split(".")
        at = changed
        for name in tables:
            at = at.setdefault(name, {})
        at[last] = list(value) if isinstance(value, tuple) else value
    return changed


def write_config(config: Table, path: Path) -> None:
    """A city file; JSON's plain values are TOML's too."""
    lines = [f"{k} = {json.dumps(v)}" for k, v in config.items() if not _is_table(v)]
    for name, value in config.items():
        tables = {name: value} if isinstance(value, dict) else {}
        if name == "city":
            tables = {f"city.{city}": table for city, table in value.items()}
        for heading, table in tables.items():
            lines += [f"[{heading}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    for table in config["input"]:
        lines += ["[[input]]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


@dataclass(frozen=True)
class Draw:
    """Few labels of a world: its city file with all labels, and with the drawn ones alone."""

    world: str
    seed: int
    size: int
    setting: str
    everything: Table
    config: Table
    base: str
    """Folder of the world's features."""
    score: Callable[[Run, str], dict[str, float]]
    judge: Callable[[Run], Table]
    """What the propagation itself is worth: of its kept cells, and of all its votes."""

    def key(self, model: str, arm: Arm) -> Key:
        # In Hong Kong the setting changes where pseudo-labels lie, and nothing else.
        shared = self.world == "hongkong" and arm.trains_on_labels_alone
        return (
            self.world,
            self.seed,
            self.size,
            "any" if shared else self.setting,
            model,
            arm.name,
        )


class HongKong:
    """The Landsat scene of Hong Kong and the polygons of the Data Fusion Contest 2017."""

    name = "hongkong"
    settings = ("blind", "given")

    def __init__(self, work: Path) -> None:
        self.work = work / self.name
        self.work.mkdir(parents=True, exist_ok=True)
        data = Path(os.environ.get("LCZCUBE_REALDATA", PROJECT.parent / "shared" / "data"))
        data = data.resolve() / "hongkong"
        self.polygons = gpd.read_file(data / "lcz_dfc2017_train_polygons.gpkg")
        config = tomllib.loads((PROJECT / "catalogs" / "hongkong.toml").read_text())
        config.pop("propagate", None)  # the package's own defaults are what is tried
        config["run"] |= {"baselines": []}
        config["input"][0]["href"] = str(data / "landsat8_36band_100m.tif")
        self.config = config
        self.everything = self._labelled(self.polygons.assign(split=""), "all")

    def _labelled(self, polygons: gpd.GeoDataFrame, folder: str, **run: Any) -> Table:
        path = self.work / "labels" / folder / "polygons.gpkg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            polygons.to_file(path)
        config = with_settings(self.config, {f"run.{key}": value for key, value in run.items()})
        config["input"][1] |= {"href": str(path), "split_column": "split"}
        return config

    def draws(self, seed: int, size: int, settings: Sequence[str]) -> Iterator[Draw]:
        drawn = self._drawn(seed, size)
        split = np.where(drawn, "training", "testing")
        tables = {
            "blind": (self.polygons[drawn].assign(split="training"), "polygon"),
            "given": (self.polygons.assign(split=split), "given"),
        }
        scored = self._evaluation(drawn)
        for setting in settings:
            polygons, method = tables[setting]
            folder = f"{seed}-{size}-{setting}"
            config = self._labelled(polygons, folder, split=method, seed=seed)
            yield Draw(
                self.name, seed, size, setting, self.everything, config, "base",
                scored.score, scored.judge,
            )  # fmt: skip

    def _drawn(self, seed: int, size: int) -> npt.NDArray[np.bool_]:
        """The draw of a size holds that of every smaller one."""
        order = self.polygons.sample(frac=1, random_state=seed)
        rank = order.groupby("lcz").cumcount().reindex(self.polygons.index)
        return np.asarray(rank < size)

    def _evaluation(self, drawn: npt.NDArray[np.bool_]) -> "HeldOutPolygons":
        groups = "dfc2017/" + self.polygons["polygon_id"].astype(str)
        return HeldOutPolygons(self.work, frozenset(groups[drawn]), frozenset(groups[~drawn]))


@dataclass(frozen=True)
class HeldOutPolygons:
    """The pixels of the polygons that were not drawn."""

    work: Path
    drawn: frozenset[str]
    scored: frozenset[str]

    def samples(self, run: Run) -> xr.Dataset:
        samples = read_samples(base_folder(self.work, "base", run) / "hongkong" / "samples.parquet")
        drawn, scored = (
            np.isin(samples["group"].values, [*groups]) for groups in (self.drawn, self.scored)
        )
        at = places(samples["x"].values, samples["y"].values)
        trained = {place for place, mine in zip(at, drawn, strict=True) if mine}
        free = np.array([place not in trained for place in at])
        return samples.isel(sample=np.flatnonzero(scored & free))

    def score(self, run: Run, model: str) -> dict[str, float]:
        samples = self.samples(run)
        if model == "xgb":
            fitted = XgbModel.load(run.folder / "models" / "xgb")
            found = fitted.probability(samples["features"].values).argmax(axis=1) + 1
        else:
            lcz = predict_maps(run.config, run.data("hongkong"), run.folder / "models")["pixels"]
            found = at_samples(lcz["lcz"].compute(), samples)
        return scores(samples["lcz"].values, found.astype(np.uint8), samples["group"].values)

    def judge(self, run: Run) -> Table:
        samples = self.samples(run)
        votes = open_product(run.path("hongkong", "propagated.zarr"), "cells")
        voted = at_samples(votes["lcz"].compute(), samples)
        truth = dict(
            zip(
                places(samples["x"].values, samples["y"].values), samples["lcz"].values, strict=True
            )
        )
        kept = gpd.read_parquet(run.path("hongkong", "pseudo_labels.parquet"))
        at = places(votes["x"].values[kept["column"]], votes["y"].values[kept["row"]])
        right = [
            truth[place] == code
            for place, code in zip(at, kept["lcz"], strict=True)
            if place in truth
        ]
        return {
            **counts(kept),
            "n_judged": len(right),
            "n_right": int(np.sum(right)),
            "votes": scores(samples["lcz"].values, voted, samples["group"].values),
        }


class Synthetic:
    """A made-up world of two cities."""

    name = "synthetic"
    settings = ("both", "north")
    cities = ("synthetic_north", "synthetic_south")

    def __init__(self, work: Path, km: float = 6.0) -> None:
        self.work = work / self.name
        self.work.mkdir(parents=True, exist_ok=True)
        self.km = km

    def draws(self, seed: int, size: int, settings: Sequence[str]) -> Iterator[Draw]:
        world = self.work / f"world-{seed}"
        optimum = write_world(world, seed=seed, km=self.km).bayes_accuracy
        labels = {
            city: gpd.read_parquet(world / "labels" / f"{city}.parquet") for city in self.cities
        }
        everything = self._config(world, labels, f"{seed}-all")
        for setting in settings:
            cities = self.cities if setting == "both" else self.cities[:1]
            few = {city: self._drawn(labels[city], seed, size) for city in cities}
            config = self._config(world, few, f"{seed}-{size}-{setting}")
            config["run"]["seed"] = seed
            truth = TrueMap(world, cities, optimum)
            base = f"base-{seed}"
            yield Draw(
                self.name, seed, size, setting, everything, config, base, truth.score, truth.judge
            )

    def _config(self, world: Path, labels: Mapping[str, gpd.GeoDataFrame], folder: str) -> Table:
        config = tomllib.loads((world / "world.toml").read_text())
        config.pop("propagate", None)
        (raster,), (patches,) = (
            [entry for entry in config["input"] if (entry["name"] == "labels") is wanted]
            for wanted in (False, True)
        )
        raster["href"] = str(world / raster["href"])
        config["input"] = [raster]
        for city, table in labels.items():
            path = self.work / "labels" / folder / f"{city}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(path)
            config["input"].append(patches | {"name": city, "city": city, "href": str(path)})
        config["run"] |= {"labels": list(labels), "baselines": []}
        return config

    def _drawn(self, labels: gpd.GeoDataFrame, seed: int, size: int) -> gpd.GeoDataFrame:
        order = labels.sample(frac=1, random_state=seed)
        return order[order.groupby("lcz").cumcount() < size].sort_index()


@dataclass(frozen=True)
class TrueMap:
    """The true map of a synthetic world, where one class fills a cell and no label touches it."""

    world: Path
    labelled: tuple[str, ...]
    optimum: float

    def cells(self, run: Run, city: str) -> Codes:
        """The true class of the cells that are judged, 0 elsewhere."""
        grid = run.grids[city]
        side = grid.cell_px
        with rasterio.open(self.world / "truth" / f"{city}_lcz.tif") as file:
            truth = file.read(1)
        blocks = truth.reshape(truth.shape[0] // side, side, truth.shape[1] // side, side)
        least, most = blocks.min(axis=(1, 3)), blocks.max(axis=(1, 3))
        touched = np.zeros(least.shape, bool)
        if city in self.labelled:
            minx, _, _, maxy = grid.bbox
            x = minx + np.arange(least.shape[1]) * grid.cell_m
            y = maxy - np.arange(least.shape[0]) * grid.cell_m
            west, north = np.meshgrid(x, y)
            squares = shapely.box(west, north - grid.cell_m, west + grid.cell_m, north)
            labels = shapely.union_all(run.labels(city).geometry.to_numpy())
            touched = shapely.area(shapely.intersection(squares, labels)) > 0
        cells: Codes = np.where((least == most) & ~touched, most, 0).astype(np.uint8)
        return cells

    def _scores(self, run: Run, maps: Mapping[str, Codes]) -> dict[str, float]:
        truth = {city: self.cells(run, city) for city in maps}
        judged = {
            city: (truth[city][truth[city] > 0], maps[city][truth[city] > 0]) for city in maps
        }
        told, said = (np.concatenate(part) for part in zip(*judged.values(), strict=True))
        both = scores(told, said)
        each = {f"oa_{c[10:]}": float((t == s).mean()) for c, (t, s) in judged.items()}
        return both | each | {"of_optimum": both["oa"] / self.optimum}

    def score(self, run: Run, model: str) -> dict[str, float]:
        maps = {}
        for city in run.cities:
            found = predict_maps(run.config, run.data(city), run.folder / "models")
            lcz = found["cells" if model == "xgb" else "pixels"]["lcz"].values
            maps[city] = lcz if model == "xgb" else majority(lcz, run.grids[city].cell_px)
        return self._scores(run, maps)

    def judge(self, run: Run) -> Table:
        kept, votes, n_judged, n_right = [], {}, 0, 0
        for city in run.cities:
            cells = open_product(run.path(city, "propagated.zarr"), "cells")
            votes[city] = cells["lcz"].values
            kept.append(gpd.read_parquet(run.path(city, "pseudo_labels.parquet")))
            truth = self.cells(run, city)[kept[-1]["row"], kept[-1]["column"]]
            n_judged += int((truth > 0).sum())
            n_right += int((truth == kept[-1]["lcz"].to_numpy())[truth > 0].sum())
        return {
            **counts(pd.concat([pd.DataFrame(table[["lcz"]]) for table in kept])),
            "n_judged": n_judged,
            "n_right": n_right,
            "votes": self._scores(run, votes),
        }


def scores(truth: Codes, found: Codes, polygon: Any = None) -> dict[str, float]:
    """Of the pixels or cells; macro F1 over the classes of the truth; the mean over polygons."""
    classes = np.unique(truth)
    f1 = f1_score(truth, found, average="macro", labels=classes, zero_division=0)
    result = {"oa": float((truth == found).mean()), "macro_f1": float(f1)}
    if polygon is not None:
        right = pd.Series(truth == found).groupby(polygon).mean()
        result["polygons"] = float(right.mean())
    return result


def counts(kept: pd.DataFrame) -> Table:
    per_class = kept["lcz"].value_counts().sort_index()
    return {"n_pseudo": len(kept), "of_class": {str(k): int(v) for k, v in per_class.items()}}


def at_samples(lcz: xr.DataArray, samples: xr.Dataset) -> Codes:
    places = {axis: xr.DataArray(samples[axis].values, dims="sample") for axis in ("y", "x")}
    return np.asarray(lcz.sel(places, method="nearest").values, np.uint8)


def places(x: npt.ArrayLike, y: npt.ArrayLike) -> list[tuple[int, int]]:
    """Positions to the metre, to be compared."""
    columns, rows = (np.rint(np.asarray(part)).astype(int).tolist() for part in (x, y))
    return list(zip(columns, rows, strict=True))


def majority(lcz: Codes, side: int) -> Codes:
    """The class of most pixels of each cell."""
    rows, columns = (n // side for n in lcz.shape)
    blocks = lcz.reshape(rows, side, columns, side)
    votes = np.stack([(blocks == code).sum(axis=(1, 3)) for code in range(18)])
    return np.asarray(votes.argmax(axis=0), np.uint8)


def base_folder(work: Path, base: str, run: Run) -> Path:
    return work / f"{base}-{'-'.join(run.table.stats)}"


def aggregated(draw: Draw, work: Path, stats: tuple[str, ...]) -> Path:
    """The run folder of the world with all its labels: its features are the same for any draw."""
    settings: Table = {"run.models": ["xgb"]} | ({"run.stats": stats} if stats else {})
    path = work / f"{draw.base}-{'-'.join(stats) or 'default'}.toml"
    write_config(with_settings(draw.everything, settings), path)
    run = open_run(work / "unknown", path)
    folder = base_folder(work, draw.base, run)
    run_stages(open_run(folder, path), ["build-catalog", "cube", "aggregate"])
    return folder


def samples_of(labels: gpd.GeoDataFrame, every: xr.Dataset) -> xr.Dataset:
    """What aggregation gives for the drawn labels, from what it gave for all of them."""
    # A polygon's id is its place in the file, which a draw changes; its group is its own.
    patch, pixel = (np.array(part) for part in zip(*map(_parts, every["patch_id"].values)))  # noqa: B905
    by_patch = np.isfinite(labels["size_m"].to_numpy(float)).all()
    key = patch if by_patch else every["group"].values
    table = labels.set_index("patch_id" if by_patch else "group", drop=False)
    at = np.flatnonzero(np.isin(key, table.index))
    own = table.loc[key[at]]
    names = np.array([n + p for n, p in zip(own["patch_id"], pixel[at], strict=True)], object)
    few = every.isel(sample=at).assign(
        split=("sample", own["split"].to_numpy(object)), patch_id=("sample", names)
    )
    return few.isel(sample=np.argsort(names.astype(str), kind="stable"))


def _parts(patch_id: str) -> tuple[str, str]:
    name, at, pixel = patch_id.partition("@")
    return name, at + pixel


@dataclass
class DrawnRun:
    """A run folder of a draw: features of the base, samples of the drawn labels."""

    draw: Draw
    base: Path
    folder: Path
    propagated: str = ""
    cost: dict[str, float] = field(default_factory=dict)
    judged: Table = field(default_factory=dict)

    def open(self, settings: Mapping[str, Any]) -> Run:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "city.toml"
        write_config(with_settings(self.draw.config, settings), path)
        return Run(read_config(path), self.folder)

    def prepare(self, run: Run) -> None:
        run_stages(run, ["build-catalog", "cube"])
        for city in run.cities:
            run.path(city, "features.zarr").symlink_to(self.base / city / "features.zarr")
            every = read_samples(self.base / city / "samples.parquet")
            few = samples_of(run.labels(city), every)
            if few.sizes["sample"]:
                write_samples(few, run.path(city, "samples.parquet"))

    def fit(self, arm: Arm, model: str) -> Table:
        run = self.open({**arm.settings, "run.models": [model]})
        if not (self.folder / "catalog").exists():
            self.prepare(run)
            run = self.open({**arm.settings, "run.models": [model]})
        wanted = json.dumps(PROPAGATE.settings(run), sort_keys=True, default=str)
        if wanted != self.propagated:
            with timed(self.cost, "propagate"):
                PROPAGATE.compute(run, "")
            self.propagated, self.judged = wanted, self.draw.judge(run)
        shutil.rmtree(self.folder / "models", ignore_errors=True)
        with timed(self.cost, "train"):
            data = run.training_data()
            made = LEARNERS[model].fit(
                data, data.rows_that_train(), seed=run.table.seed, final=True
            )
            made.save(run.folder / "models" / model)
            summary = f"{model} on {made.meta.n_train} samples"
        with timed(self.cost, "predict"):
            found = self.draw.score(run, model)
        return {"scores": found, **self.judged, "train": summary, "cost": dict(self.cost)}


class timed:  # noqa: N801
    """CPU and wall seconds of a block, into a dict."""

    def __init__(self, cost: dict[str, float], name: str) -> None:
        self.cost, self.name = cost, name

    def __enter__(self) -> None:
        self.started = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        now = time.process_time(), time.perf_counter()
        self.cost[f"{self.name}_cpu_s"] = round(now[0] - self.started[0], 2)
        self.cost[f"{self.name}_wall_s"] = round(now[1] - self.started[1], 2)


@cache
def code_digest() -> str:
    """Of the package's files: results of other code are not mixed with these."""
    digest = hashlib.sha256()
    root = Path(lczcube.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:10]


def read_results(path: Path, keep_old: Sequence[str]) -> dict[Key, Table]:
    """Latest result of each key, by this code; by any code for the arms that are named."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    old = set(keep_old)
    kept = [row for row in rows if row["code"] == code_digest() or old & {row["arm"], "all"}]
    return {tuple(row[name] for name in KEY_COLUMNS): row for row in kept}


def run_draw(draw: Draw, arms: Sequence[Arm], models: Sequence[str], work: Path, out: Path,
             done: dict[Key, Table]) -> None:  # fmt: skip
    todo = [
        (arm, model)
        for model in models
        for arm in arms
        if not _is_done(done.get(draw.key(model, arm)), arm)
    ]
    # Arms of one propagation stand together, so that it is done once.
    todo.sort(key=lambda pair: (pair[0].stats, str(_propagation(pair[0]))))
    world = work / draw.world
    drawn: DrawnRun | None = None
    for arm, model in todo:
        base = aggregated(draw, world, arm.stats)
        if drawn is None or drawn.base != base:
            folder = world / f"draw-{os.getpid()}"
            shutil.rmtree(folder, ignore_errors=True)
            drawn = DrawnRun(draw, base, folder)
        key = draw.key(model, arm)
        row = {
            **dict(zip(KEY_COLUMNS, key, strict=True)),
            "reference": arm.reference,
            "settings": dict(arm.settings),
            "code": code_digest(),
            **drawn.fit(arm, model),
        }
        done[key] = row
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        figures = " ".join(f"{name} {row['scores'][name]:.3f}" for name in METRICS[draw.world])
        print(*key, figures, row["cost"], flush=True)
    if drawn is not None:
        shutil.rmtree(drawn.folder, ignore_errors=True)


def _is_done(row: Table | None, arm: Arm) -> bool:
    return row is not None and row["settings"] == json.loads(json.dumps(dict(arm.settings)))


def _propagation(arm: Arm) -> list[tuple[str, Any]]:
    return sorted(pair for pair in arm.settings.items() if pair[0].startswith("propagate."))


def summarise(done: Mapping[Key, Table]) -> list[Table]:
    """A row an arm: scores over the seeds, and differences from its reference seed by seed."""
    groups: dict[Key, list[Table]] = {}
    for row in done.values():
        key = tuple(row[name] for name in ("world", "model", "size", "setting", "arm"))
        groups.setdefault(key, []).append(row)
    return [_summary(groups[key], done) for key in sorted(groups)]


def _summary(rows: list[Table], done: Mapping[Key, Table]) -> Table:
    first = rows[0]
    summary: Table = {name: first[name] for name in (*KEY_COLUMNS, "reference", "settings", "code")}
    summary["seed"] = sorted(row["seed"] for row in rows)
    for metric in METRICS[first["world"]]:
        values = np.array([row["scores"][metric] for row in rows])
        pairs = [(row, _reference(row, done)) for row in rows]
        gains = np.array(
            [a["scores"][metric] - b["scores"][metric] for a, b in pairs if b is not None]
        )
        summary[metric] = _spread(values)
        if gains.size and first["arm"] != first["reference"]:
            won = {"won": int((gains > 0).sum()), "lost": int((gains < 0).sum())}
            summary[f"gain_{metric}"] = _spread(gains) | won
    summary["n_pseudo"] = float(np.mean([row["n_pseudo"] for row in rows]))
    judged = sum(row["n_judged"] for row in rows)
    summary["pseudo_right"] = sum(row["n_right"] for row in rows) / judged if judged else None
    summary["votes_oa"] = float(np.mean([row["votes"]["oa"] for row in rows]))
    costs = pd.DataFrame([row["cost"] for row in rows]).mean()
    summary["cost"] = {name: round(float(value), 1) for name, value in costs.items()}
    return summary


def _reference(row: Table, done: Mapping[Key, Table]) -> Table | None:
    for setting in (row["setting"], "any"):
        key = (row["world"], row["seed"], row["size"], setting, row["model"], row["reference"])
        if key in done:
            return done[key]
    return None


def _spread(values: npt.NDArray[np.float64]) -> Table:
    sd = float(values.std(ddof=1)) if values.size > 1 else 0.0
    least, most = float(values.min()), float(values.max())
    return {"n": values.size, "mean": float(values.mean()), "sd": sd, "min": least, "max": most}


def table_text(summaries: Sequence[Table]) -> str:
    parts = []
    for world, metrics in METRICS.items():
        rows = [row for row in summaries if row["world"] == world]
        if not rows:
            continue
        heads = ["labels a class", "setting", "model", "arm (against)", *metrics]
        heads += [f"gain {m}" for m in metrics[:3]] + ["pseudo-labels", "of them right", "CPU s"]
        parts += [f"\n### {world}\n", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        parts += ["| " + " | ".join(_cells(row, metrics)) + " |" for row in rows]
    note = (
        "\nScores: mean ± sd over the seeds. Gains: mean ± sd of the differences seed by seed "
        "[least, most], seeds won/all. CPU s: of propagating and training once.\n"
    )
    return "\n".join([*parts, note])


def _cells(row: Table, metrics: Sequence[str]) -> list[str]:
    against = f" ({row['reference']})" if row["arm"] != row["reference"] else ""
    cells = [str(row["size"]), row["setting"], row["model"], row["arm"] + against]
    cells += [f"{row[m]['mean']:.3f} ± {row[m]['sd']:.3f}" for m in metrics]
    cells += [_gain(row.get(f"gain_{m}")) for m in metrics[:3]]
    right = "-" if row["pseudo_right"] is None else f"{row['pseudo_right']:.2f}"
    alone = row["settings"].get("run.pseudo_weight") == 0
    cells += ["-", "-"] if alone else [f"{row['n_pseudo']:.0f}", right]
    cost = row["cost"]
    return [*cells, f"{cost['propagate_cpu_s']:.0f} + {cost['train_cpu_s']:.0f}"]


def _gain(gain: Table | None) -> str:
    if gain is None:
        return "-"
    return (
        f"{gain['mean']:+.3f} ± {gain['sd']:.3f} [{gain['min']:+.3f}, {gain['max']:+.3f}] "
        f"{gain['won']}/{gain['n']}"
    )


def write_tables(work: Path, done: Mapping[Key, Table]) -> str:
    summaries = summarise(done)
    (work / "table.json").write_text(json.dumps(summaries, indent=1) + "\n")
    text = table_text(summaries)
    (work / "table.md").write_text(text)
    return text


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder for worlds and results")
    parser.add_argument("--worlds", nargs="*", default=["synthetic", "hongkong"])
    parser.add_argument("--models", nargs="*", default=["xgb"], choices=["xgb", "unet"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2, 3, 4], help="labels a class")
    parser.add_argument("--settings", nargs="*", default=["blind", "given", "both", "north"])
    parser.add_argument("--arm", action="append", default=[], help='"NAME: propagate.k=5, …"')
    parser.add_argument("--only", nargs="*", help="of all arms, these")
    parser.add_argument("--sweep", action="store_true", help="also the arms built in")
    parser.add_argument("--set", default="", help='settings of every arm: "unet.epochs=5, …"')
    parser.add_argument("--keep-old", nargs="*", default=[], help="arms kept from other code; all")
    parser.add_argument("--table", action="store_true", help="only the table of what is there")
    parser.add_argument("--quick", action="store_true", help="a smoke test: a small world, a seed")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    work = chosen.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    arms = [LABELS, PSEUDO, *(SWEEP if chosen.sweep else ()), *map(arm_of_text, chosen.arm)]
    common = {"run.pseudo_weight": WEIGHT} | dict(arm_of_text(f"all: {chosen.set}").settings)
    arms = [Arm(a.name, {**common, **a.settings}, a.reference) for a in arms]
    arms = [arm for arm in arms if not chosen.only or arm.name in chosen.only]
    seeds, sizes, worlds = range(chosen.seeds), chosen.sizes, chosen.worlds
    if chosen.quick:
        seeds, sizes, worlds = range(1), [2], ["synthetic"]
    out = work / "results.jsonl"
    done = read_results(out, ["all"] if chosen.table else chosen.keep_old)
    if not chosen.table:
        makers: dict[str, Callable[[], HongKong | Synthetic]] = {
            "hongkong": lambda: HongKong(work),
            "synthetic": lambda: Synthetic(work, 2.0 if chosen.quick else 6.0),
        }
        with open_scheduler():
            for world in (makers[name]() for name in worlds):
                settings = [name for name in world.settings if name in chosen.settings]
                for seed in seeds:
                    for size in sizes:
                        for draw in world.draws(seed, size, settings):
                            run_draw(draw, arms, chosen.models, work, out, done)
    print(write_tables(work, done))


if __name__ == "__main__":
    main()
