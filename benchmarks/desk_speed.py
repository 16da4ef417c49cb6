"""What the desk's commands cost in two checkouts: archive add, index build, novelty fit, EfficientNet, faiss' recall.

    python benchmarks/desk_speed.py OLD_PYTHON NEW_PYTHON --model runs/claims-32 --photos PHOTOS [--rounds 3]

Each python is that of an environment in which one of the two checkouts is installed. Every job runs in a process of its
own with one thread, old and new in turn; times are CPU seconds of the job without its imports, medians over the rounds.
Beside each ratio stands whether both came to the same: every byte that the archive keeps, the five photos nearest to
each photo, and the verdict on each photo. Of EfficientNet alone, in batches of 32 photos of 192 px as index and novelty
have them, it is the largest difference of a feature; of faiss, the recall.
"""

import argparse
import hashlib
import importlib
import inspect
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

JOBS = ("archive add", "index build", "novelty fit", "efficientnet", "faiss")
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="Python of the old checkout")
    parser.add_argument("new", help="Python of the new checkout")
    parser.add_argument("--model", type=Path, required=True, help="a run, or the folder of an autoencoder")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--vectors", type=int, default=100_001, help="that faiss searches in")
    options = parser.parse_args()
    print("| job | old, CPU s | new, CPU s | old / new | the same |\n|---|---|---|---|---|")
    for job in options.jobs:
        print(row(job, options), flush=True)


def row(job: str, options: argparse.Namespace) -> str:
    """A line of the table: both in turn, `rounds` times."""
    found: dict[str, list[dict[str, Any]]] = {"old": [], "new": []}
    for _ in range(options.rounds):
        for side, python in (("old", options.old), ("new", options.new)):
            found[side].append(measured(python, job, options))
    old, new = (statistics.median(one["seconds"] for one in found[side]) for side in ("old", "new"))
    ratios = [one["seconds"] / other["seconds"] for one, other in zip(found["old"], found["new"], strict=True)]
    ratio = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
    if job == "faiss":
        recalls = [f"{found[side][0]['recall']:.4f}" for side in ("old", "new")]
        what = f"200 queries of {options.vectors:,} vectors by faiss"
        return f"| {what} | {old:.2f} | {new:.2f} | {ratio} | recall@10 {', '.join(recalls)} |"
    if job == "efficientnet":
        ours, theirs = found["old"][0]["vectors"], found["new"][0]["vectors"]
        apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        what = f"{found['new'][0]['num_photos']} photos by EfficientNet"
        return f"| {what} | {old:.2f} | {new:.2f} | {ratio} | within {apart:.1e} of [0, {max(ours):.2f}] |"
    kept = [json.dumps(one["kept"], sort_keys=True) for side in ("old", "new") for one in found[side]]
    return f"| {job} | {old:.2f} | {new:.2f} | {ratio} | {'yes' if len(set(kept)) == 1 else 'no'} |"


def measured(python: str, job: str, options: argparse.Namespace) -> dict[str, Any]:
    """What one process says of one job."""
    work = json.dumps([job, str(options.model.resolve()), str(options.photos.resolve()), options.vectors])
    with tempfile.TemporaryDirectory() as folder:
        # Through the file and not as a module, in an empty folder: each python imports its own checkout.
        program = f"import runpy; runpy.run_path({str(Path(__file__).resolve())!r})['work'](*{work})"
        done = subprocess.run(
            [python, "-c", program], cwd=folder, env={**os.environ, **_ENVIRONMENT}, capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def work(job: str, model: str, photos: str, vectors: int) -> None:
    """One job, in the current folder; prints its CPU seconds and what came of it as JSON."""
    import torch

    torch.set_num_threads(1)
    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        "archive add": lambda: archive_add(model, Path(photos)),
        "index build": lambda: index_build(model, Path(photos)),
        "novelty fit": lambda: novelty_fit(model, Path(photos)),
        "efficientnet": lambda: efficientnet(Path(photos)),
        "faiss": lambda: faiss_search(vectors),
    }
    print(json.dumps(jobs[job]()))


def either(*names: str) -> Any:
    """The first module of these that the checkout has: rooms have moved."""
    for name in names:
        try:
            return importlib.import_module(f"vae_ldm.{name}")
        except ModuleNotFoundError:
            continue
    raise SystemExit(f"neither of {names} is in this checkout")


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def archive_add(model: str, photos: Path) -> dict[str, Any]:
    add = either("desk.archive.add", "run.archive").add
    seconds, _ = timed(lambda: add(Path("archive"), photos, model=model))
    entries = either("desk.archive.store", "latent_space.archive").Archive.open(Path("archive")).entries(print)
    kept = {entry.id: [entry.method, entry.psnr, hashlib.sha256(entry.payload).hexdigest()] for entry in entries}
    return {"seconds": seconds, "kept": kept}


def index_build(model: str, photos: Path) -> dict[str, Any]:
    build = either("desk.search.build", "run.index_build").build_index
    records = either("data.photo_stream").photo_records(photos)
    seconds, index = timed(lambda: build(Path("index"), photos, model=model))
    hits = index.query(records, k=5)
    nearest = {
        record.id: [hit.photo.id for hit in some if not hit.same_photo]
        for record, some in zip(records, hits, strict=True)
    }
    return {"seconds": seconds, "kept": nearest}


def novelty_fit(model: str, photos: Path) -> dict[str, Any]:
    fit = either("desk.novelty.fit", "desk.novelty.novelty", "run.novelty").fit
    score = either("desk.novelty.score", "desk.novelty.novelty", "run.novelty").score
    settings = {"model": model} if "model" in inspect.signature(fit).parameters else {}  # older ones took a model
    seconds, _ = timed(lambda: fit(photos, out=Path("detector"), false_alarm_rate=0.1, **settings))
    verdicts = score(photos, Path("detector"), out=Path("scores.csv"))
    return {"seconds": seconds, "kept": {one.record.id: one.novel for one in verdicts}}


def efficientnet(photos: Path) -> dict[str, Any]:
    import torch

    photo_stream, pixels = either("data.photo_stream"), either("models.pixels")
    either("hardware", "training.hardware").prepare_cpu()  # as every command that looks at photos begins
    features = either("models.vision_features").load_efficientnet_lite()
    features = features.folded() if hasattr(features, "folded") else features
    records = photo_stream.photo_records(photos)[:256]
    batches = photo_stream.decoded_batches(records, [(192, 192)], channels=3, resize="crop", batch_size=32)
    images = [pixels.as_images(batch.images[0]) for batch in batches]
    with torch.no_grad():
        features.embed(images[0])  # the first pass also takes memory from the system
        seconds, vectors = timed(lambda: [features.embed(batch) for batch in images])
    return {"seconds": seconds, "num_photos": len(records), "vectors": torch.cat(vectors)[:16].flatten().tolist()}


def faiss_search(num_vectors: int) -> dict[str, Any]:
    import numpy as np
    import torch
    import torch.nn.functional as F

    vector_index = either("latent_space.vector_index")
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(2000, 256, generator=generator), dim=1)  # as in search_scale.py

    def clustered(count: int) -> torch.Tensor:
        which = torch.randint(len(centres), (count,), generator=generator)
        noise = torch.randn(count, 256, generator=generator) * (1.25 / 16)
        return F.normalize(centres[which] + noise, dim=1)

    vectors, queries = clustered(num_vectors), clustered(200)
    exact = vector_index.ExactIndex(256)
    exact.add(vectors)
    expected = exact.search(queries, 10).rows.tolist()
    originals = vectors.numpy()
    size = vector_index.FaissIndex.training_size(num_vectors)
    chosen = np.sort(np.random.default_rng(0).choice(num_vectors, size, replace=False))
    index = vector_index.FaissIndex.train(
        originals[chosen], num_vectors=num_vectors, lookup=lambda rows: originals[rows]
    )
    for some in vectors.split(65_536):
        index.add(some)
    seconds, found = timed(lambda: index.search(queries, 10))
    shared = [len(set(a) & set(b)) for a, b in zip(found.rows.tolist(), expected, strict=True)]
    return {"seconds": seconds, "recall": sum(shared) / 2000}


if __name__ == "__main__":
    main()
