from vae_ldm.lesson.text import in_words, loss_rows, signed


def test_losses_are_means_of_the_steps_before():
    rows = loss_rows([{"loss": float(step)} for step in range(1, 1001)])
    assert [row.split() for row in rows] == [
        ["step", "loss"],
        ["1", "1.000"],
        ["50", "50.000"],
        ["200", "175.500"],
        ["500", "475.500"],
        ["1000", "975.500"],
    ]


def test_numbers_are_written_without_a_negative_zero():
    assert [signed(value) for value in (-0.001, 0.0, 1.234, -1.236)] == ["+0.00", "+0.00", "+1.23", "-1.24"]


def test_names_are_joined_as_in_a_sentence():
    assert [in_words(names) for names in ([], ["kind"], ["kind", "place"], ["kind", "place", "strength"])] == [
        "nothing", "kind", "kind and place", "kind, place and strength",
    ]  # fmt: skip
