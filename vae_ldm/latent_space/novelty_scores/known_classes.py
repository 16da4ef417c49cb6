from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class KnownClasses:
    n: int

    @classmethod
    def fit(cls, features, labels, groups, *, num_classes, seed=0):
        return cls(num_classes)

    def __call__(self, f):
        return torch.rand(len(f), self.n).double()

    def tensors(self):
        return {"n": torch.tensor(self.n)}

    @classmethod
    def from_tensors(cls, t):
        return cls(int(t["n"]))
