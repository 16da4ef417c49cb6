"""How the lesson writes numbers, patches and rows of its table."""

from vae_ldm.lesson.judgement import Judgement
from vae_ldm.lesson.patches import DAMAGED_KINDS, KINDS, SIDE, Array, Patches


def table_row(judgement: Judgement) -> str:
    """A line of chapter 5's table."""
    name = "none (AE)" if judgement.beta is None else f"{judgement.beta:g}"
    kl = "-" if judgement.beta is None else f"{judgement.kl:.2f}"
    scores = (judgement.prior.real, judgement.prior.coverage, judgement.fitted.real, judgement.fitted.coverage)
    shares = [percent(share) for share in scores]
    return (
        f"{name:>9} {judgement.reconstruction:10.3f} {kl:>7} {judgement.num_active:7d} "
        f"{shares[0]:>7} {shares[1]:>9} {shares[2]:>7} {shares[3]:>9}"
    )


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
