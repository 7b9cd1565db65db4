"""How hard the synthetic world is, from the files it writes.

    python benchmarks/synth_difficulty.py --seeds 7 8 9 10 11

Prints a Markdown table, one row a seed: Bayes-optimal accuracy of pure cells (stated, and of the
ideal observer on the unlabelled cells scored here); leave-one-city-out kappa of a linear probe and
of 10 nearest neighbours on patch means, both directions; accuracy within the city on unlabelled
pure cells, as a share of the stated optimum. An unlabelled cell touches no patch.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lczcube.synth import Difficulty, WorldCity, write_world

CELL_PX = 32
N_MEANS = 64
Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class CitySamples:
    """Patches and unlabelled pure cells: features are mean, std, max of each band."""

    patches: Floats
    patch_lcz: Codes
    cells: Floats
    cell_lcz: Codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9, 10, 11])
    parser.add_argument("--km", type=float, default=6.0)
    for name, value in asdict(Difficulty()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value)
    options = vars(parser.parse_args())
    seeds, km = options.pop("seeds"), options.pop("km")
    print(
        "| seed | Bayes | cells | LP kappa | kNN kappa | LR share | XGB share | pooled XGB share |"
    )
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for seed in seeds:
        rows.append(measure(seed, km, Difficulty(**options)))
        print_row(str(seed), rows[-1])
    print_row("mean", [float(np.mean(column)) for column in zip(*rows, strict=True)])


def print_row(title: str, row: list[float]) -> None:
    bayes, cells, *rest = row
    numbers = " | ".join(f"{value:.3f}" for value in rest)
    print(f"| {title} | {bayes:.3f} | {cells:.0f} | {numbers} |", flush=True)


def measure(seed: int, km: float, difficulty: Difficulty) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(Path(folder) / "world", km=km, seed=seed, difficulty=difficulty)
        samples = [read_samples(city) for city in world.cities]
        optimum = json.loads(world.description.read_text())["bayes"]["accuracy"]
    n_cells = sum(s.cell_lcz.size for s in samples)
    return [
        optimum,
        n_cells,
        across(samples, linear_probe),
        across(samples, nearest),
        within(samples, linear_probe) / optimum,
        within(samples, boosted) / optimum,
        pooled(samples, boosted) / optimum,
    ]


def across(samples: list[CitySamples], model: Callable[[Floats, Codes, Floats], Codes]) -> float:
    """Mean kappa of patches of one city under a model of the other's, patch means only."""
    first, second = samples
    kappas = [
        cohen_kappa_score(
            test.patch_lcz,
            model(train.patches[:, :N_MEANS], train.patch_lcz, test.patches[:, :N_MEANS]),
        )
        for train, test in ((first, second), (second, first))
    ]
    return float(np.mean(kappas))


def within(samples: list[CitySamples], model: Callable[[Floats, Codes, Floats], Codes]) -> float:
    """Accuracy on unlabelled pure cells, each city by a model of its own patches."""
    right = [(model(s.patches, s.patch_lcz, s.cells) == s.cell_lcz) for s in samples]
    return float(np.concatenate(right).mean())


def pooled(samples: list[CitySamples], model: Callable[[Floats, Codes, Floats], Codes]) -> float:
    """The same, by one model of all cities' patches."""
    patches = np.concatenate([s.patches for s in samples])
    codes = np.concatenate([s.patch_lcz for s in samples])
    cells = np.concatenate([s.cells for s in samples])
    truth = np.concatenate([s.cell_lcz for s in samples])
    return float((model(patches, codes, cells) == truth).mean())


def linear_probe(features: Floats, codes: Codes, wanted: Floats) -> Codes:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return np.asarray(model.fit(features, codes).predict(wanted))


def nearest(features: Floats, codes: Codes, wanted: Floats) -> Codes:
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(10))
    return np.asarray(model.fit(features, codes).predict(wanted))


def boosted(features: Floats, codes: Codes, wanted: Floats) -> Codes:
    from xgboost import XGBClassifier

    present, index = np.unique(codes, return_inverse=True)
    model = XGBClassifier(
        n_estimators=100, max_depth=4, learning_rate=0.15, subsample=0.7, colsample_bytree=0.3,
        n_jobs=2, random_state=0,
    )  # fmt: skip
    return np.asarray(present[model.fit(features, index).predict(wanted)])


def read_samples(city: WorldCity) -> CitySamples:
    codes = read_codes(city)
    with rasterio.open(city.truth) as file:
        truth = file.read(1)
        transform = file.transform
    table = gpd.read_parquet(city.labels)
    columns = [math.ceil((x - transform.c) / 10 - 0.5) for x in table.x0]
    rows = [math.ceil((transform.f - y) / 10 - 0.5) for y in table.y0]
    labelled = np.zeros(truth.shape, dtype=bool)
    for row, column in zip(rows, columns, strict=True):
        labelled[row : row + CELL_PX, column : column + CELL_PX] = True
    cells = [
        (row, column)
        for row in range(0, truth.shape[0], CELL_PX)
        for column in range(0, truth.shape[1], CELL_PX)
        if is_pure(truth[square(row, column)]) and not labelled[square(row, column)].any()
    ]
    return CitySamples(
        patches=features(codes, list(zip(rows, columns, strict=True))),
        patch_lcz=table.lcz.to_numpy(),
        cells=features(codes, cells),
        cell_lcz=np.array([truth[place] for place in cells], dtype=np.uint8),
    )


def read_codes(city: WorldCity) -> NDArray[np.int8]:
    """Codes on the city's grid, ``(64, y, x)``, north-up."""
    height, width = city.grid.shape
    west, south = city.grid.bbox[:2]
    out = np.full((N_MEANS, height, width), -128, dtype=np.int8)
    for path in city.tiles:
        with rasterio.open(path) as tile:
            x = round((tile.transform.c - west) / 10)
            y = round((tile.transform.f - south) / 10)
            x0, x1 = max(x, 0), min(x + tile.width, width)
            y0, y1 = max(y, 0), min(y + tile.height, height)
            part = tile.read(window=Window(x0 - x, y0 - y, x1 - x0, y1 - y0))
        out[:, height - y1 : height - y0, x0:x1] = part[:, ::-1]
    return out


def features(codes: NDArray[np.int8], places: list[tuple[int, int]]) -> Floats:
    out = np.empty((len(places), 3 * N_MEANS), dtype=np.float32)
    for row, (y, x) in zip(out, places, strict=True):
        values = codes[:, y : y + CELL_PX, x : x + CELL_PX].reshape(N_MEANS, -1).astype(np.float32)
        decoded = np.sign(values) * (values / 127.5) ** 2
        row[:] = np.concatenate([decoded.mean(1), decoded.std(1), decoded.max(1)])
    return out


def square(row: int, column: int) -> tuple[slice, slice]:
    return slice(row, row + CELL_PX), slice(column, column + CELL_PX)


def is_pure(truth: Codes) -> bool:
    return bool(truth[0, 0] > 0 and (truth == truth[0, 0]).all())


if __name__ == "__main__":
    main()
