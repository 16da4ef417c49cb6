"""How the lesson writes numbers, patches and rows of its tables."""

from collections.abc import Sequence

import numpy as np

from vae_ldm.lesson.autoencoder import Terms
from vae_ldm.lesson.disentanglement import Told, changed_by
from vae_ldm.lesson.judgement import Judgement
from vae_ldm.lesson.patches import DAMAGED_KINDS, KINDS, SIDE, Array, Patches


def table_row(judgement: Judgement) -> str:
    """A row of the table of chapter 5."""
    name = "none (AE)" if judgement.beta is None else f"{judgement.beta:g}"
    kl = "-" if judgement.beta is None else f"{judgement.kl:.2f}"
    scores = (judgement.prior.real, judgement.prior.coverage, judgement.fitted.real, judgement.fitted.coverage)
    shares = [percent(share) for share in scores]
    return (
        f"{name:>9} {judgement.reconstruction:10.3f} {kl:>7} {judgement.num_active:7d} "
        f"{shares[0]:>7} {shares[1]:>9} {shares[2]:>7} {shares[3]:>9}"
    )


def told_rows(beta: float, told: Told, gaps: Sequence[float]) -> list[str]:
    """Two rows of a table of chapter 6, one a latent: what it tells, what it changes, and the gap of every start."""
    rows = []
    for latent, changed in enumerate(changed_by(told)):
        first, last = (f"{beta:g}", "  ".join(f"{gap:.2f}" for gap in gaps)) if latent == 0 else ("", "")
        shares = "".join(f"{percent(shares[latent]):>10}" for shares in told.values())
        rows.append(f"{first:>8}     z{latent + 1}{shares}    {in_words(changed):<26}{last}".rstrip())
    return rows


def in_words(changed: Sequence[str]) -> str:
    """Such as "kind, place and strength", or "nothing"."""
    return " and ".join([", ".join(changed[:-1]), *changed[-1:]] if changed[1:] else changed) or "nothing"


def loss_rows(history: Sequence[Terms]) -> list[str]:
    """The head and a few rows of a training log; each number is the mean of up to 50 steps before it."""
    names, num_steps = list(history[0]), len(history)
    rows = ["      step" + "".join(f"{name:>16}" for name in names)]
    for step in sorted({1, num_steps // 20, num_steps // 5, num_steps // 2, num_steps} - {0}):
        window = history[step - 1 : step] if step <= 50 else history[step - 50 : step]
        means = [float(np.mean([terms[name] for terms in window])) for name in names]
        rows.append(f"{step:10d}" + "".join(f"{mean:16.3f}" for mean in means))
    return rows


def beside(pixels: Array, titles: list[str]) -> list[str]:
    """Patches [N, 25] as blocks of whole percent, side by side under their titles."""
    lines = ["  " + "".join(f"{title:<21}" for title in titles).rstrip()]
    for row in range(SIDE):
        rows = [patch[row * SIDE : (row + 1) * SIDE] for patch in pixels]
        lines.append("  " + "  ".join(" ".join(f"{round(100 * value):3d}" for value in values) for values in rows))
    return lines


def name_of(patches: Patches, number: int) -> str:
    """Such as "3: crack, damaged"."""
    kind = KINDS[patches.kinds[number]]
    return f"{number + 1}: {kind}, {'damaged' if kind in DAMAGED_KINDS else 'clean'}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def signed(value: float) -> str:
    """Two decimals with a sign, and no -0.00."""
    return f"{round(value, 2) + 0.0:+.2f}"
