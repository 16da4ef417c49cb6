"""How many calibration photos a false-alarm rate takes."""

from vae_ldm.latent_space.false_alarms import photos_needed, rate_to_name


def test_the_rate_that_is_named_is_one_that_the_photos_suffice_for():
    """Of 8 photos the least rate is 0.111..., and 0.11 would be too little."""
    assert [rate_to_name(count) for count in (8, 9, 12, 19, 62, 99)] == [
        "0.12",
        "0.1",
        "0.077",
        "0.05",
        "0.016",
        "0.01",
    ]
    assert all(photos_needed(float(rate_to_name(count))) <= count for count in range(1, 3_000))
