"""A map of one city in a dozen lines; README.md shows the same lines.

Write the world that it reads first: ``lczcube synth demo/world``.
"""

import lczcube
from lczcube.config import read_config
from lczcube.labels.samples import build_samples
from lczcube.models import fit_xgb, predict_features
from lczcube.runfolder import city_grid

city_file = "demo/world/world.toml"
lczcube.build_catalog(city_file, "demo/catalog", overwrite=True)
catalog = lczcube.open_catalog("demo/catalog")

grid = city_grid(read_config(city_file), catalog, "synthetic_north")
cube = lczcube.open_cube(catalog, grid, inputs=["alphaearth"], year=2021)
cells = lczcube.aggregate(cube)  # lazy: no pixel is read yet

labels = lczcube.read_labels(catalog, ["labels"], crs=grid.crs)
samples = build_samples(labels, cube, cells, stats=["mean", "std", "max"])
model = fit_xgb(samples, seed=0)

lcz_map = predict_features(model, cells).assign_attrs(lczcube_grid=grid.to_json())
lczcube.write_product({"cells": lcz_map}, "demo/lcz.zarr", overwrite=True)
