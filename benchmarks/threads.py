"""Wall-clock and CPU seconds of training steps under several ways to use two cores, quiet and beside other work.

    python benchmarks/threads.py [--steps 40] [--rounds 3] [--busy 0 1 2]

Each round runs every way once, in an order that alternates (A B B A), each in a process of its own: `--steps` steps of
the autoencoder and of the UNet of `claims-32`. `--busy N` starts N processes beside it that never rest. A row shows the
median of the rounds [smallest, largest] and the ratio to the first row's median. libgomp lets a waiting thread spin
(GOMP_SPINCOUNT, OMP_WAIT_POLICY), which is fast on a core of its own and takes the core from others elsewhere.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import chain, repeat

WAYS: dict[str, dict[str, str]] = {
    "2 threads, libgomp's own waiting": {"OMP_NUM_THREADS": "2"},
    "2 threads, OMP_WAIT_POLICY=passive": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
    "2 threads, GOMP_SPINCOUNT=1000": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "1000"},
    "2 threads, GOMP_SPINCOUNT=20000": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "20000"},
    "1 thread": {"OMP_NUM_THREADS": "1"},
}


def worker(steps: int) -> None:
    """Print wall and CPU seconds of the steps of both networks."""
    import torch

    from vae_ldm.hardware import fastest_precision, prepare_cpu
    from vae_ldm.models.autoencoder import new_autoencoder
    from vae_ldm.models.unet import new_unet

    prepare_cpu()
    torch.manual_seed(0)
    autoencoder = new_autoencoder("tiny", downsample_factor=4, latent_channels=8, image_channels=3, image_size=(32, 32))
    unet = new_unet("nano", latent_channels=8, latent_size=(8, 8), cross_attention_dim=64)
    images, latents = torch.rand(16, 3, 32, 32), torch.randn(32, 8, 8, 8)
    states, timesteps = torch.randn(32, 12, 64), torch.randint(1000, (32,))

    def autoencoder_step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=fastest_precision("autoencoder") == "bf16-mixed"):
            loss = (autoencoder(images).sample - images).abs().mean()
        loss.backward()

    def unet_step() -> None:
        loss = unet(latents, timesteps, states).sample.square().mean()
        loss.backward()

    seconds = {}
    for name, step in (("autoencoder", autoencoder_step), ("unet", unet_step)):
        for _ in range(5):
            step()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        seconds[name] = (time.perf_counter() - wall, time.process_time() - cpu)
    print(json.dumps(seconds))


def measured(way: dict[str, str], steps: int) -> dict[str, list[float]]:
    """What `worker` prints in a process of its own."""
    command = [sys.executable, __file__, "--worker", "--steps", str(steps)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))} | way
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        worker(asked.steps)
        return
    for busy in asked.busy:
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in repeat(None, busy)]
        try:
            found: dict[str, list[dict[str, list[float]]]] = {name: [] for name in WAYS}
            for number in range(asked.rounds):
                for name in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
                    found[name].append(measured(WAYS[name], asked.steps))
        finally:
            for other in others:
                other.kill()
        print(f"\nBeside {busy} busy processes, {asked.steps} steps, wall seconds (CPU seconds)")
        for network in ("autoencoder", "unet"):
            base = statistics.median(run[network][0] for run in next(iter(found.values())))
            for name, runs in found.items():
                walls = sorted(run[network][0] for run in runs)
                cpu = statistics.median(chain(run[network][1] for run in runs))
                middle = statistics.median(walls)
                spread = f"[{walls[0]:.2f}, {walls[-1]:.2f}]"
                print(f"  {network:12} {name:36} {middle:6.2f} {spread:16} ({cpu:6.2f})  {middle / base:.2f}")


if __name__ == "__main__":
    main()
