"""Trees from batches against trees in memory: the same bytes, seconds, and peak memory.

    python benchmarks/xgb.py
    python benchmarks/xgb.py --rows 100000 --rounds 20

The table is Parquet: ``--features`` normal variables around a mean of their own for each of 17
classes, a hundredth of them NaN. Every fit is a process of its own, on one thread: in memory and
from batches of the whole table, and from batches of an eighth of it. The peak is that of resident
memory over the whole process, reading the table included.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr

from lczcube.labels.samples import read_samples, write_samples
from lczcube.models import XgbParameters, fit_xgb
from lczcube.models.batches import parquet_batches

N_CLASSES = 17
PART_ROWS = 16384


def part(number: int, n: int, n_features: int) -> xr.Dataset:
    random = np.random.default_rng(number)
    lcz = random.integers(1, N_CLASSES + 1, n).astype(np.uint8)
    centres = np.random.default_rng(99).normal(size=(N_CLASSES + 1, n_features))
    features = random.normal(scale=3, size=(n, n_features)).astype(np.float32)
    features += centres[lcz].astype(np.float32)
    features[random.random(features.shape) < 0.01] = np.nan
    text = np.full(n, "made", object)
    columns: dict[str, Any] = dict.fromkeys(("patch_id", "city", "group", "split"), text)
    columns |= dict.fromkeys(("x", "y", "size_m"), np.zeros(n))
    columns |= {"lcz": lcz, "weight": np.ones(n, np.float32), "valid_fraction": np.ones(n, "f4")}
    return xr.Dataset(
        {name: ("sample", values) for name, values in columns.items()}
        | {"features": (("sample", "feature"), features)},
        coords={"feature": [f"f{i}" for i in range(n_features)]},
        attrs={"products": json.dumps(["made/1"]), "synthetic": 1, "unit": "patch"},
    )


def write_table(path: Path, rows: int, n_features: int) -> None:
    """Rows of ``part``, written as they are made, in the layout of ``write_samples``."""
    write_samples(part(0, 1, n_features), path)
    schema = pq.read_schema(path)
    with pq.ParquetWriter(path, schema) as file:
        for number, start in enumerate(range(0, rows, PART_ROWS)):
            samples = part(number, min(PART_ROWS, rows - start), n_features)
            names = [name for name in schema.names if name in samples]
            features = pd.DataFrame(samples["features"].values, columns=samples["feature"].values)
            table = pd.concat([samples[names].to_dataframe()[names], features], axis=1)
            file.write_table(pa.Table.from_pandas(table[schema.names], schema=schema))


def fit(path: str, how: str, rounds: int) -> dict[str, Any]:
    parameters = XgbParameters(rounds=rounds)
    wall, cpu = time.perf_counter(), time.process_time()
    samples = parquet_batches(path) if how == "batches" else read_samples(path)
    model = fit_xgb(samples, seed=0, parameters=parameters)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "how": how,
        "rows": model.meta.n_train,
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "peak_mb": int(status["VmHWM"].split()[0]) // 1024,
        "trees": hashlib.sha256(model.weights).hexdigest()[:12],
    }


def in_a_process(path: Path, how: str, rounds: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--fit", str(path), how, "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    print(json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--fit", nargs=2, metavar=("TABLE", "HOW"), help="one fit, in this process")
    given = parser.parse_args()
    if given.fit:
        print(json.dumps(fit(*given.fit, given.rounds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        table, eighth = Path(folder) / "table.parquet", Path(folder) / "eighth.parquet"
        write_table(table, given.rows, given.features)
        write_table(eighth, given.rows // 8, given.features)
        small = in_a_process(eighth, "batches", given.rounds)
        memory = in_a_process(table, "memory", given.rounds)
        batches = in_a_process(table, "batches", given.rounds)
    print(f"same trees: {batches['trees'] == memory['trees']}")
    print(f"peak, eightfold table: x {batches['peak_mb'] / small['peak_mb']:.2f}")
    print(f"peak, against memory: x {batches['peak_mb'] / memory['peak_mb']:.2f}")
    print(f"wall, against memory: x {batches['wall_s'] / memory['wall_s']:.2f}")
    print(f"cpu, against memory: x {batches['cpu_s'] / memory['cpu_s']:.2f}")


if __name__ == "__main__":
    main()
