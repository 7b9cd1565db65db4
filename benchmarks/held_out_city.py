"""Every kind of model on a synthetic world, each city scored by models of the others.

Run ``python benchmarks/held_out_city.py``; the world is made up and written to a temporary folder.
It prints overall accuracy, macro F1 and kappa as means over seeds with their range, and the share
that the accuracy has of the optimum of the world: the best rule that sees one pure cell.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from lczcube.crossval import Candidate
from lczcube.evaluate import Scores
from lczcube.learners import LEARNERS
from lczcube.pipeline import run_stages
from lczcube.runfolder import Run, open_run
from lczcube.synth import write_world
from lczcube.tables import markdown_table
from lczcube.training import cross_validate_candidates, predictor

METRICS = ("oa", "macro_f1", "kappa")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cities", type=int, default=4)
    parser.add_argument("--km", type=float, default=4.8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--world-seed", type=int, default=7)
    parser.add_argument("--kinds", nargs="*", default=list(LEARNERS))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        optimum = write(folder, chosen)
        run = open_run(folder / "run", folder / "world" / "held_out.toml")
        run_stages(run, ["build-catalog", "cube", "aggregate", "propagate"])
        print(
            f"SYNTHETIC world, seed {chosen.world_seed}: {chosen.cities} cities of {chosen.km:g} "
            f"km, each held out; optimum {optimum:.3f}; {chosen.seeds} seeds."
        )
        rows = [row(kind, run, optimum) for kind in chosen.kinds]
        print(markdown_table(("model", "of optimum", *METRICS, "CPU s a seed"), rows))


def write(folder: Path, chosen: argparse.Namespace) -> float:
    world = write_world(
        folder / "world", cities=chosen.cities, km=chosen.km, seed=chosen.world_seed
    )
    text = world.config.read_text()
    text = text.replace('split = "polygon"', f'split = "city"\nrepeats = {chosen.seeds}')
    # Own defaults of the models, not the small ones of the demonstration.
    text = text[: text.index("[unet]")].replace('["xgb", "unet"]', '["xgb"]')
    (folder / "world" / "held_out.toml").write_text(text)
    return world.bayes_accuracy


def row(kind: str, run: Run, optimum: float) -> tuple[str, ...]:
    started = time.process_time()
    data = run.training_data()
    candidate = Candidate(kind, predictor(data, LEARNERS[kind]))
    found = cross_validate_candidates(data, [candidate], progress=lambda _: None)
    seconds = (time.process_time() - started) / run.table.repeats
    scores = found.scores[kind]
    share = [repeat["oa"] / optimum for repeat in scores.repeats if repeat["oa"] is not None]
    cells = (spread(share), *(of_seeds(scores, metric) for metric in METRICS))
    print(kind, *cells, f"{seconds:.0f}", flush=True)
    return (kind, *cells, f"{seconds:.0f}")


def of_seeds(scores: Scores, metric: str) -> str:
    return spread([v for repeat in scores.repeats if (v := repeat[metric]) is not None])


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    main()
