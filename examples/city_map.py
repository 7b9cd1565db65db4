"""A map of one city in a dozen lines; README.md shows the same lines.

Write the world that it reads first: ``lczcube synth demo/world``.
"""

import lczcube

city_file = "demo/world/world.toml"
lczcube.build_catalog(city_file, "demo/catalog", overwrite=True)
catalog = lczcube.open_catalog("demo/catalog")

grid = lczcube.city_grid(lczcube.read_config(city_file), catalog, "synthetic_north")
cube = lczcube.open_cube(catalog, grid, inputs=["alphaearth"], year=2021)
cells = lczcube.aggregate(cube)  # lazy: no pixel is read yet

labels = lczcube.read_labels(catalog, ["labels"], crs=grid.crs)
samples = lczcube.build_samples(labels, cube, cells)
model = lczcube.fit_xgb(samples, seed=0)

lczcube.write_product({"cells": lczcube.predict(model, cells)}, "demo/lcz.zarr", overwrite=True)
