"""What a detector of novelty costs: CPU seconds of a fit, CPU milliseconds of a verdict, bytes and memory.

    python benchmarks/novelty_speed.py ../shared/data/damage_solar/train --only-class No-Anomaly

One thread. The fit looks at all photos of the folder, makes damage and fits; photos of other classes become known ones.
A verdict is timed alone: what is seen in a photo, and then all scores, p-values, classes and the heat map.
"""

import argparse
import functools
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vae_ldm.data.photo_records import photo_records
from vae_ldm.desk.novelty.detector_folder import open_detector
from vae_ldm.desk.novelty.fit import fit

NUM_TIMED = 30


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--only-class", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "detector"
        fitted = cpu_seconds(lambda: fit(options.photos, out=out, only_classes=options.only_class))
        size = sum(file.stat().st_size for file in out.iterdir())
        opening = cpu_seconds(lambda: open_detector(out))
        detector = open_detector(out)
    records = photo_records(options.photos)
    batches = detector.observer.batches(records[:: max(1, len(records) // NUM_TIMED)], batch_size=1)
    looking, judging = [], []
    for batch in batches:
        began = time.process_time()
        seen = detector.observer(batch.pictures)
        looking.append(time.process_time() - began)
        judging.append(cpu_seconds(functools.partial(detector.judge_seen, batch, seen)))
    facts = detector.facts
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{facts.num_reference:,} usual photos and {len(facts.known_classes)} known classes:")
    print(f"fit {fitted:.0f} CPU s, at most {memory:.1f} GiB; {size / 2**20:.0f} MiB on disk; ", end="")
    print(f"opened in {opening:.2f} CPU s")
    print(f"looking at a photo {1000 * statistics.median(looking):.0f} CPU ms; ", end="")
    print(f"verdict after it {1000 * statistics.median(judging):.1f} CPU ms (median of {len(judging)})")


if __name__ == "__main__":
    main()
