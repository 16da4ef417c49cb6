"""What children of the fork server have imported when they begin."""

import gc
from importlib import import_module

for _name in (
    "vae_ldm.cli",
    "vae_ldm.run.stages",
    "vae_ldm.run.export",
    "torch.utils.tensorboard",
    "tests.run.conftest",
    "pytest",
):
    import_module(_name)
# All this stays for good. A child need not look through it whenever it collects garbage.
gc.collect()
gc.freeze()
