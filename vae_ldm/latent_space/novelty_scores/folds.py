"""Which photos are left out together."""

import torch
from torch import Tensor


def assign_folds(groups: Tensor, num_folds: int, seed: int) -> Tensor:
    """Folds [N], int64, of about the same number of photos, for photos of `groups` [N], int64; a group is never split.

    Groups come in random order, the large ones first, and each goes to the fold that has the fewest photos so far.
    """
    names, members, counts = groups.unique(return_inverse=True, return_counts=True)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    order = order[counts[order].argsort(descending=True, stable=True)]
    sizes = [0] * num_folds
    fold_of_group = torch.empty(len(names), dtype=torch.int64)
    for group, count in zip(order.tolist(), counts[order].tolist(), strict=True):
        fold = sizes.index(min(sizes))
        fold_of_group[group] = fold
        sizes[fold] += count
    return fold_of_group[members]
