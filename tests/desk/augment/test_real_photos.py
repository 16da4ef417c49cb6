"""The folder that photos are decoded into."""

import subprocess
import sys
import tempfile

from vae_ldm.desk.augment.real_photos import _temporary_folder


def test_decoded_photos_that_a_killed_call_has_left_are_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = (
        "import os, signal, tempfile\n"
        "from vae_ldm.desk.augment.real_photos import _temporary_folder\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "with _temporary_folder() as folder:\n"
        "    (folder / 'pictures').mkdir()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    (left,) = tmp_path.iterdir()
    assert (left / "pictures").is_dir()
    with _temporary_folder() as mine:
        assert list(tmp_path.iterdir()) == [mine]
        with _temporary_folder() as other:  # one that is in use is left alone
            assert set(tmp_path.iterdir()) == {mine, other}
    assert list(tmp_path.iterdir()) == []
