"""`vae-ldm claim` of two checkouts, alternated: CPU seconds of the whole process, and whether they say the same.

    python benchmarks/claim_speed.py OLD/.venv/bin/python NEW/.venv/bin/python --model RUN --photos PHOTOS --photo PHOTO

Each checkout makes a desk of its own. Each call of `claim` is a process of its own with one thread. The median of
the CPU seconds is printed for each checkout, and the ratio old / new of each pair.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def cpu_seconds(command: list[str], folder: Path) -> tuple[float, str]:
    """User and system time of the process and its children, and what it prints on the standard output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{' '.join(command)}\n{ended.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="past photos, at least 40")
    parser.add_argument("--photo", type=Path, required=True, help="the photo of the new claim")
    parser.add_argument("--variations", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    model, photos, photo = (path.resolve() for path in (arguments.model, arguments.photos, arguments.photo))
    pythons = {name: str(Path.cwd() / path) for name, path in (("old", arguments.old), ("new", arguments.new))}
    seconds: dict[str, list[float]] = {name: [] for name in pythons}
    said = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["--model", str(model), "--false-alarm-rate", "0.1"]
        for which, python in pythons.items():
            cpu_seconds([python, "-m", "vae_ldm", "desk", which, str(photos), *options], folder)
        verb = ["-m", "vae_ldm", "claim", str(photo), "--num-variations", str(arguments.variations)]
        for number in range(arguments.pairs + 1):  # the first pair warms the page cache
            for which, python in pythons.items():
                (folder / "claim.html").unlink(missing_ok=True)  # a page that is there is not replaced
                taken, said[which] = cpu_seconds([python, *verb, "--desk", which], folder)
                if number:
                    seconds[which].append(taken)
    ratios = [old / new for old, new in zip(seconds["old"], seconds["new"], strict=True)]
    for which, each in seconds.items():
        low, middle, high = min(each), statistics.median(each), max(each)
        print(f"{which}: {middle:.2f} CPU s [{low:.2f}, {high:.2f}] of {arguments.pairs} calls")
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"old / new: {middle:.2f} [{low:.2f}, {high:.2f}]")
    print("verdict, p-value and neighbours are the same" if said["old"] == said["new"] else said)


if __name__ == "__main__":
    main()
