"""Damage made by code, to learn from good photos alone what a detector of novelty should look at.

A detector has photos of the usual kind only.
Damage that is made on them says which scores would notice something strange in photos of this kind, and its masks say
where it lies.
The kinds are those of the literature on anomaly detection, and kinds that a photo as a whole can suffer:

- CutPaste (Li et al. 2021, CutPaste: Self-Supervised Learning for Anomaly Detection and Localization);
- textures under Perlin masks (Zavrtanik et al. 2021, DRAEM: A Discriminatively Trained Reconstruction Embedding);
- insertions of another photo whose edges fade (Schlueter et al. 2022, Natural Synthetic Anomalies for Self-Supervised
  Anomaly Detection and Localization; they blend by Poisson's equation, a faded edge and a matched mean stand for it);
- a strength that goes from nothing to bold damage (Zhang et al. 2024, RealNet: A Feature Selection Network with
  Realistic Synthetic Anomaly), so that a benchmark can fix how hard each kind is.
"""

from vae_ldm.data.made_damage.kinds import KINDS, DamageKind, MadeDamage, make_damage

__all__ = ["KINDS", "DamageKind", "MadeDamage", "make_damage"]
