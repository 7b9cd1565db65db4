"""What a run gives to propagation: labels and cells of its cities, and indexes of donors."""

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.errors import LabelError, MissingInputError, ModelError
from lczcube.labels.samples import join_samples, n_labelled, sample_frame, without_absent
from lczcube.neighbours import (
    DonorIndex,
    build_index,
    choose_method,
    donors_fingerprint,
    measure_recall,
    open_index,
    search_cost,
    write_index,
)
from lczcube.products import open_features
from lczcube.propagate import Donors, Moments, city_moments
from lczcube.runfolder import Run
from lczcube.trainingdata import training_rows
from lczcube.windows import layer_of_feature

INDEXES = ".donors"
"""Folder of the run, a folder an index, named by its donors; no city can be named so."""

FOLDER_DIGITS = 16

RECALL_CELLS = 1000
"""Cells whose neighbours by a graph are compared with those of the exact search."""

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RunDonors:
    """The labels of a run that may give donors, and the cells that cities are standardised by.

    Attributes
    ----------
    run : Run
        Whose features and samples are there.
    """

    run: Run

    @cached_property
    def samples(self) -> dict[str, xr.Dataset]:
        """Samples by city, without those that are only scored."""
        run = self.run
        return {
            city: self._without_flags(training_rows(part, run.config))
            for city, part in run.samples().items()
        }

    def cells(self, city: str) -> xr.Dataset:
        """The features of a city, lazy, without those that say if it has a layer."""
        return self._without_flags(open_features(self.run.path(city, "features.zarr")))

    def weights(self, names: Iterable[str]) -> dict[str, float]:
        """Weight of every input that has one of these features; empty where all weigh the same."""
        given, inputs = self.run.config.propagate.weights, self.run.table.features
        present = {layer_of_feature(name, inputs) for name in names}
        return {name: given.get(name, 1.0) for name in inputs if name in present} if given else {}

    def _without_flags(self, dataset: xr.Dataset) -> xr.Dataset:
        flags = [f"{name}_present" for name in self.run.table.features]
        names = dataset["feature"].values
        return dataset.isel(feature=np.flatnonzero(~np.isin(names, flags)))

    def moments(self, cities: Iterable[str], names: list[str]) -> dict[str, Moments]:
        """Mean and deviation of some features over the cells of each city; reads a city once."""
        found = {}
        for city in cities:
            present, mean, std = self._moments(city)
            at = [present[name] for name in names]
            found[city] = mean[at], std[at]
        return found

    def giving(self, named: Iterable[str], city: str | None = None) -> list[str]:
        """Cities of those named that have labels to give.

        Raises
        ------
        LabelError
            If none has.
        """
        samples = self.samples
        cities = [name for name in named if name in samples and samples[name].sizes["sample"]]
        # Rules know natural classes alone: every cell would be one.
        if any(n_labelled(samples[name]) for name in cities):
            return cities
        who = f"city {city!r} has" if city else "the run has"
        labelled = ", ".join(name for name in samples if n_labelled(samples[name]))
        raise LabelError(
            f"{who} no donors: donors = {self.run.config.propagate.donors!r} and labels to train "
            f"on lie in {labelled or 'no city'}; its own labels are of "
            f"{_splits_of(self.run, city)}. Name cities with labels in [propagate] donors, or a "
            "city's donor splits in its table (donors = [...])."
        )

    def donor_cities(self, city: str) -> list[str]:
        """Cities whose labels vote on the cells of a city, as [propagate] says."""
        donors = self.run.config.propagate.donors
        named = {"all": self.run.cities, "own": [city]}.get(str(donors), donors)
        return self.giving(named, city)

    def index(self, donors: Donors, cells: xr.Dataset, city: str) -> DonorIndex:
        """The index of donors: as stored, if it is what would be built, or built and stored.

        Parameters
        ----------
        donors : Donors
            All that are searched together.
        cells : xarray.Dataset
            Features of the city, as the donors have them.
        city : str
            Whose cells will be looked up.
        """
        k = min(self.run.config.propagate.k, donors.n_groups)
        n_queries = int(cells["covered"].sum())
        method = self._search(len(donors.lcz), donors.n_groups, n_queries, donors.vectors.shape[1])
        index = self._stored_index(donors, method, n_queries, k)
        if index.method == "exact" or not n_queries:
            return index
        queries = donors.space.vectors(_some_features(cells), city)
        return index.with_recall(measure_recall(index, queries, k, donors.group))

    def _stored_index(self, donors: Donors, method: str, n_queries: int, k: int) -> DonorIndex:
        run, space = self.run, donors.space
        how = [method] if method == "exact" else [method, str(run.table.seed), str(run.n_threads)]
        fingerprint = donors_fingerprint(
            donors.vectors, names=[*space.feature_names, *how], products=space.products
        )
        folder = run.folder / INDEXES / fingerprint[:FOLDER_DIGITS]
        self._used.add(folder)
        try:
            return open_index(folder, fingerprint=fingerprint)
        except (MissingInputError, ModelError):  # not there, or damaged
            shutil.rmtree(folder, ignore_errors=True)
        index = build_index(
            donors.vectors,
            method=method,
            n_queries=n_queries,
            k=k,
            seed=run.table.seed,
            n_threads=run.n_threads,
            fingerprint=fingerprint,
        )
        return write_index(index, folder)

    def _search(self, n_donors: int, n_groups: int, n_queries: int, n_dimensions: int) -> str:
        """``exact`` or ``pynndescent``: as [propagate] says, or as pays in a new process."""
        table = self.run.config.propagate
        if table.search != "auto":
            return table.search
        return choose_method(n_donors, n_queries, n_dimensions, k=table.k, n_groups=n_groups)

    def sweep_indexes(self) -> None:
        """Delete stored indexes that were not used: of donors that are not there any more."""
        for folder in (self.run.folder / INDEXES).glob("*"):
            if folder.is_dir() and folder not in self._used:
                shutil.rmtree(folder)

    def plan(self, city: str) -> str:
        """What the search for the donors of a city's cells will cost, in words."""
        parts = [self.samples[name] for name in self.donor_cities(city)]
        rows = sample_frame(join_samples(parts))
        n_groups = len(rows[["city", "group"]].drop_duplicates())
        n_features = int(parts[0].sizes["feature"])
        n_cells = int(np.prod(self.run.grids[city].output_geobox.shape))
        method = self._search(len(rows), n_groups, n_cells, n_features)
        k = self.run.config.propagate.k
        cost = search_cost(len(rows), n_cells, n_features, k=k, method=method, of_groups=True)
        return f"propagate: {len(rows)} donors, {n_cells} cells; {cost.sentence()}"

    @cached_property
    def _used(self) -> set[Path]:
        return set()

    @cached_property
    def _known(self) -> dict[str, tuple[dict[str, int], Float64, Float64]]:
        return {}

    def _moments(self, city: str) -> tuple[dict[str, int], Float64, Float64]:
        if city not in self._known:
            cells = without_absent(self.cells(city), [])
            names = cells["feature"].values.tolist()
            self._known[city] = {name: i for i, name in enumerate(names)}, *city_moments(cells)
        return self._known[city]


def _some_features(cells: xr.Dataset) -> npt.NDArray[np.float32]:
    """Features of some covered cells, float32, (cell, feature), finite."""
    rows, columns = np.nonzero(cells["covered"].values)
    drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:RECALL_CELLS])
    at = {
        "cell_y": xr.DataArray(rows[drawn], dims="query"),
        "cell_x": xr.DataArray(columns[drawn], dims="query"),
    }
    features: npt.NDArray[np.float32] = cells["features"].drop_vars("feature").isel(at).values
    return features[np.isfinite(features).all(axis=1)]


def _splits_of(run: Run, city: str | None) -> str:
    labels = [run.labels(name)["split"].astype(str) for name in ([city] if city else run.cities)]
    counts = Counter(split for part in labels for split in part)
    listed = [f"{name or 'no split'} ({n})" for name, n in sorted(counts.items())]
    return ", ".join(listed) or "no split"
