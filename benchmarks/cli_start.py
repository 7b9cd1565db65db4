"""How long ``lczcube --help`` and ``import lczcube`` take in a fresh interpreter.

    python benchmarks/cli_start.py

Prints the median and the best of ten runs each, beside the bare interpreter. The aim for --help is
0.4 s on an idle machine; the tests hold the number of imported modules instead, which no noise
moves.
"""

import argparse
import statistics
import subprocess
import sys
import time

PROGRAMS = {
    "bare interpreter": "pass",
    "import lczcube": "import lczcube",
    "lczcube --help": "from lczcube.cli import main; main(['--help'])",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    print("| program | median s | best s |")
    print("|---|---|---|")
    for name, program in PROGRAMS.items():
        seconds = [seconds_of(program) for _ in range(runs)]
        print(f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} |")


def seconds_of(program: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
