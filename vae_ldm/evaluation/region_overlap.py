"""How well maps of damage cover each damaged region, the small as well as the large (PRO, Bergmann et al. 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor

FALSE_POSITIVE_LIMIT = 0.3
"""Maps that mark more of what is undamaged show nobody where to look."""


def region_overlap(maps: Tensor, masks: Tensor, *, limit: float = FALSE_POSITIVE_LIMIT) -> float:
    """The mean share of a damaged region that is marked, over false-positive rates up to `limit`: in [0, 1].

    Maps [N, H, W], high where strange, and masks, bool [N, H, W]; a region is what hangs together in a mask, by sides
    or corners. At each threshold the false-positive rate is the share of all undamaged places that are marked, and the
    overlap is the mean over regions of the share of a region that is marked. Their curve is integrated up to `limit` by
    trapezoids and divided by it (Bergmann et al. 2020, Uninformed Students, section 4; anomalib calls it AUPRO). A map
    that says nothing has about limit / 2. `limit` is below 1. Raises ValueError where nothing, or everything, is
    damaged.
    """
    regions = connected_regions(masks)
    sizes = regions.flatten().bincount()[1:]
    if not len(sizes) or masks.all():
        raise ValueError("a region overlap needs places that are damaged and places that are not")
    order = maps.flatten().argsort(descending=True)
    values, marked = maps.flatten()[order], regions.flatten()[order]
    undamaged = marked == 0
    false_positives = undamaged.double().cumsum(dim=0) / undamaged.sum()
    shares = torch.cat([sizes.new_zeros(1).double(), 1 / sizes.double()])[marked]
    overlaps = shares.cumsum(dim=0) / len(sizes)
    thresholds = torch.cat([values[1:] != values[:-1], torch.ones(1, dtype=torch.bool)])  # equal places go together
    zero = torch.zeros(1, dtype=torch.float64)
    rates, means = torch.cat([zero, false_positives[thresholds]]), torch.cat([zero, overlaps[thresholds]])
    last = int(torch.searchsorted(rates, limit, right=True))  # the first rate beyond the limit
    share = (limit - rates[last - 1]) / (rates[last] - rates[last - 1])
    at_limit = means[last - 1] + share * (means[last] - means[last - 1])
    cut_rates = torch.cat([rates[:last], torch.full((1,), limit, dtype=torch.float64)])
    return (torch.trapezoid(torch.cat([means[:last], at_limit[None]]), cut_rates) / limit).item()


def connected_regions(masks: Tensor) -> Tensor:
    """Numbers, int64 [N, H, W], of the regions of masks, bool [N, H, W]: from 1 on, 0 where there is none.

    What touches by a side or a corner is one region; regions of two masks are two.
    """
    own = torch.arange(1, masks.numel() + 1, dtype=torch.float64).view(masks.shape) * masks
    while True:
        highest = F.max_pool2d(own[:, None], 3, stride=1, padding=1)[:, 0] * masks
        if torch.equal(highest, own):
            break
        own = highest
    found, numbers = own.unique(return_inverse=True)
    return numbers if found[0] == 0 else numbers + 1
