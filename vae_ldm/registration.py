"""Registers `Trainer(strategy="accelerate")` once `vae_ldm` is imported, before Lightning or after it."""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import Any


def _accelerate_strategy(**settings: Any) -> Any:
    return import_module("vae_ldm.training.accelerate_strategy").AccelerateStrategy(**settings)


def _register() -> None:
    registry = import_module("pytorch_lightning.strategies").StrategyRegistry
    registry.register("accelerate", _accelerate_strategy, "whatever `accelerate launch` has set up", override=True)


class _OnceLightningIsImported(MetaPathFinder):
    """Registers the strategy when Lightning is imported; importing it here would cost every command seconds."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "pytorch_lightning":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_offer(module: Any) -> None:
                load(module)
                _register()

            spec.loader.exec_module = load_and_offer  # type: ignore[method-assign]
        return spec


def offer_strategy() -> None:
    """Register the strategy now, or as soon as Lightning is imported."""
    if "pytorch_lightning" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _OnceLightningIsImported())
