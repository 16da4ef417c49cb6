"""A photo's digest is that of its file, whatever holds it."""

import hashlib

from PIL import Image

from vae_ldm.data.sources import Record, photo_digest


def test_the_digest_is_that_of_the_file(tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "1.png")
    content = (tmp_path / "1.png").read_bytes()
    assert photo_digest(Record("1.png", tmp_path / "1.png")) == hashlib.sha256(content).hexdigest()
    assert photo_digest(Record("x", content)) == hashlib.sha256(content).hexdigest()
    assert photo_digest(Record("x", tmp_path / "absent")) is None
    assert photo_digest(Record("x", Image.new("L", (9, 9)))) is None
