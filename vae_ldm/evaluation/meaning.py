"""What the name of a measurement means, in plain words, for pages that are read by those who did not choose it."""

_MEANINGS = {
    "psnr": "Peak signal-to-noise ratio: how near reconstructions come to their pictures, pixel by pixel.",
    "ssim": "Structural similarity: how well reconstructions keep edges and patterns; 1 is perfect.",
    "fd": "Fréchet distance: how far two sets of pictures are apart as a vision network sees them; 0 is alike.",
    "kid": "Kernel distance: how far two sets of pictures are apart as a vision network sees them; 0 is alike.",
    "precision": "The share of drawn pictures that look like real ones to a vision network.",
    "recall": "The share of real pictures that some drawn picture looks like to a vision network.",
    "probe_accuracy": "How often a small classifier, the probe, names the class of a picture.",
    "reconstruction_agreement": "How often the probe names the class of a picture by its reconstruction.",
    "prompt_agreement": "How often the probe finds in a drawn picture what its prompt asks for.",
    "memorised": "The share of drawn pictures that lie as near to a training picture as 1 in 100 held-out ones do.",
    "chosen": "The training metric of the exported weights, on validation pictures that had no say in choosing them.",
    "copies_in_pixels": "The share of drawn pictures that are one training picture over again, pixel by pixel.",
}
"""By the name, or by the part of it before the features; a name with "pca64" is taken on 64 principal axes of these."""


def meaning(name: str) -> str:
    """A sentence that says what the measurement called `name`, such as fd_EffLite0_pca64, is; "" of unknown names."""
    if name.startswith("student_"):
        what = meaning(name.removeprefix("student_"))
        return f"Of the student, beside its teacher on the same prompts and noises. {what}"
    return _MEANINGS.get(name) or _MEANINGS.get(name.split("_")[0], "")
