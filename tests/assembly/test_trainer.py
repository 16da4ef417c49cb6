"""`trainer.compile` never ends a run: what cannot be compiled stays eager, and one line says so."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from vae_ldm.assembly.trainer import compile_if_asked
from vae_ldm.recipe import parts

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch, of itself

COMPILED = parts.Trainer(compile=True)
REASON = r"InvalidCxxCompiler: No working C\+\+ compiler found .*"


@pytest.fixture
def no_compiler() -> Iterator[None]:
    """A machine without a C++ compiler, on which nothing was compiled before."""
    from torch._inductor import config

    torch._dynamo.reset()
    nowhere = {"cpp.cxx": (None, "/no/such/compiler"), "fx_graph_cache": False}
    with config.patch(nowhere), torch._dynamo.config.patch(suppress_errors=False):  # as it was before and will be again
        yield
    torch._dynamo.reset()


class Network(nn.Module):
    """Not of torch itself, whose modules are compiled with the code around them only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs).relu()


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Network()


def test_without_a_compiler_a_line_says_so_and_nothing_is_compiled(no_compiler, network, capfd):
    expected = network(torch.ones(1, 4))
    said: list[str] = []
    for _ in range(2):  # a run has two stages
        compile_if_asked(COMPILED, [network], say=said.append)
    assert len(said) == 2
    for line in said:
        assert re.fullmatch(rf"torch\.compile does not work here \({REASON}\); going on without it", line)
    assert torch.equal(network(torch.ones(1, 4)), expected)
    assert "Traceback" not in capfd.readouterr().err


def test_a_network_that_cannot_be_compiled_runs_as_it_is_and_one_line_says_so(no_compiler, network, monkeypatch, capfd):
    expected = network(torch.ones(1, 4))
    said: list[str] = []
    monkeypatch.setattr("vae_ldm.assembly.trainer._try_to_compile", lambda: None)  # as if only this network could not
    compile_if_asked(COMPILED, [network], say=said.append)
    assert said.pop(0) == "compiling: the first step of a stage takes minutes"
    for rows in (1, 2, 3):
        assert torch.equal(network(torch.ones(rows, 4)), expected.expand(rows, -1))
    (line,) = said
    assert re.fullmatch(rf"a part of the network cannot be compiled \({REASON}\) and runs as it is", line)
    assert list(network.state_dict()) == ["layer.weight", "layer.bias"]
    assert "Traceback" not in capfd.readouterr().err


def test_it_is_compiled_only_where_the_recipe_asks_for_it(network, monkeypatch):
    monkeypatch.setattr(network, "compile", pytest.fail)
    compile_if_asked(parts.Trainer(), [network], say=pytest.fail)
