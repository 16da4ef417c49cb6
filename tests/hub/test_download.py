"""Pulling from a Hub of our own with the real client."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from tests.hub.server import HubServer
from vae_ldm.errors import HubError, RunError, VaeLdmError, WeightsError
from vae_ldm.hub import download, download_recipe
from vae_ldm.hub.names import parse_name
from vae_ldm.weights import local_folder

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.36.0",
    "vae": ["diffusers", "AutoencoderKL"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
}
SHARDS = {"weight_map": {f"{n}.weight": f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)}}
PIPELINE = {
    ".gitattributes": b"*.safetensors filter=lfs\n",
    "README.md": b"# Tins\n",
    "recipe.yaml": b"name: tins\n",
    "model_index.json": json.dumps(INDEX).encode(),
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": bytes(range(256)) * 1000,
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors": b"first",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors": b"second",
    "unet/diffusion_pytorch_model.safetensors.index.json": json.dumps(SHARDS).encode(),
    "samples/samples.png": b"picture",
}
UNEXPECTED = {
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
    "vae/deep/config.json": b"{}",
    "pipeline.py": b"import os",
    "unet/unet.py": b"import os",
    "v1-5-pruned.ckpt": b"pickle",
    "tins.safetensors": b"single file",
}


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def refusal(error: type[Exception], *arguments: str, **settings: object) -> str:
    with pytest.raises(error) as caught:
        download(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_only_what_is_expected_is_written(hub: HubServer, tmp_path: Path) -> None:
    hub.add("acme/tins", PIPELINE | UNEXPECTED)
    folder = download("acme/tins")
    assert files_in(folder) == PIPELINE.keys() - {".gitattributes"}
    for name in files_in(folder):
        assert (folder / name).read_bytes() == PIPELINE[name]
    assert folder.is_relative_to(tmp_path / "cache")
    assert b"pickle" not in [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_second_time_nothing_is_downloaded(hub: HubServer) -> None:
    hub.add("acme/tins", PIPELINE)
    folder = download("acme/tins")
    hub.requests.clear()
    assert download("acme/tins") == folder
    assert not [request for request in hub.requests if "/resolve/" in request or "/blob/" in request]


def test_a_subfolder_alone(hub: HubServer) -> None:
    hub.add("acme/tins", PIPELINE)
    folder = download("acme/tins", subfolder="vae")
    assert files_in(folder) == {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
    assert "holds no weights of a pipeline or an autoencoder as safetensors in tokenizer/" in refusal(
        HubError, "acme/tins", subfolder="tokenizer"
    )


def test_a_branch_a_tag_and_a_commit(hub: HubServer) -> None:
    repo = hub.add("acme/tins", PIPELINE)
    old = repo.branches["main"]
    repo.tags["v1"] = old
    hub.add("acme/tins", PIPELINE | {"README.md": b"# Tins, again\n"})
    repo.branches["draft"] = repo.branches["main"]
    assert (download("acme/tins") / "README.md").read_bytes() == b"# Tins, again\n"
    for arguments in ({"revision": "v1"}, {"revision": old}):
        assert (download("acme/tins", **arguments) / "README.md").read_bytes() == b"# Tins\n"
    assert (download("hf://acme/tins@v1") / "README.md").read_bytes() == b"# Tins\n"
    assert download("acme/tins", revision="draft") == download("hf://acme/tins")
    message = refusal(HubError, "acme/tins", revision="v2")
    assert message == "acme/tins: has no revision v2; give a branch, a tag or a commit of it"


def test_an_autoencoder_alone(hub: HubServer) -> None:
    files = {
        "config.json": b"{}",
        "diffusion_pytorch_model.safetensors": b"weights",
        "diffusion_pytorch_model.bin": b"p",
    }
    hub.add("acme/vae", files)
    assert files_in(download("acme/vae")) == {"config.json", "diffusion_pytorch_model.safetensors"}


@pytest.mark.parametrize(
    ("files", "pickle"),
    [
        ({"config.json": b"{}", "diffusion_pytorch_model.bin": b"p"}, "diffusion_pytorch_model.bin"),
        ({"config.json": b"{}", "vae.ckpt": b"p"}, "vae.ckpt"),
        ({**PIPELINE, "text_encoder/pytorch_model.bin": b"p"}, "text_encoder/pytorch_model.bin"),
    ],
)
def test_pickled_weights_alone_are_refused_before_anything_is_downloaded(
    hub: HubServer, tmp_path: Path, files: dict[str, bytes], pickle: str
) -> None:
    hub.add("acme/tins", files)
    message = refusal(HubError, "acme/tins")
    assert message.startswith(f"acme/tins: {pickle} is a pickle, which can run code when opened, and there are no")
    assert not (tmp_path / "cache").exists()


def test_no_weights_at_all(hub: HubServer) -> None:
    hub.add("acme/words", {"README.md": b"Soon.", "tins.safetensors": b"of another layout"})
    assert refusal(HubError, "acme/words").startswith("acme/words: holds no weights")


@pytest.mark.parametrize("name", ["../evil.json", "vae/../../config.json", "/etc/passwd", "..\\x", "C:\\x", "c:x"])
def test_names_that_lead_out_are_refused(hub: HubServer, tmp_path: Path, name: str) -> None:
    hub.add("acme/tins", PIPELINE | {name: b"{}"})
    message = refusal(HubError, "acme/tins")
    assert message.startswith(f"acme/tins: holds a file named {name!r}, which would be written outside its folder")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("library", ["os", "my_pipeline", "vae_ldm.run"])
def test_classes_of_other_packages_are_refused(hub: HubServer, library: str) -> None:
    index = json.dumps(INDEX | {"unet": [library, "Network"]}).encode()
    hub.add("acme/tins", PIPELINE | {"model_index.json": index})
    assert refusal(HubError, "acme/tins").startswith(f"acme/tins: its unet is code of '{library}', and nothing but")


def test_an_index_that_is_not_json(hub: HubServer) -> None:
    hub.add("acme/tins", PIPELINE | {"model_index.json": b"{"})
    assert refusal(HubError, "acme/tins").startswith("acme/tins: its model_index.json is not JSON")


def test_no_such_repository_and_private_without_a_token(hub: HubServer) -> None:
    hub.add("acme/secret", PIPELINE, private=True)
    for name in ("acme/absent", "acme/secret"):
        assert refusal(HubError, name) == (
            f"{name}: there is no such repository, or it is private and there is no token; "
            "run `hf auth login`, or set HF_TOKEN"
        )


def test_tokens(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("acme/secret", PIPELINE, private=True)
    assert files_in(download("acme/secret", token="hf_anna_read"))
    monkeypatch.setenv("HF_TOKEN", "hf_anna")
    assert download("acme/secret", token=None).is_dir()
    assert "hf_" not in (message := refusal(HubError, "acme/secret", token="hf_ben"))
    assert message == "acme/secret: there is no such repository, or the token's account may not see it"
    assert refusal(HubError, "acme/secret", token="hf_wrong").startswith(
        f"acme/secret: the Hub does not know the token; make a new one at {hub.url}/settings/tokens"
    )


def test_gated(hub: HubServer) -> None:
    hub.add("acme/terms", PIPELINE, gated=True)
    assert refusal(HubError, "acme/terms", token="hf_ben") == (
        f"acme/terms: is gated; accept its terms at {hub.url}/acme/terms and log in with that account"
    )


def test_a_connection_cut_in_the_middle_goes_on_where_it_was(hub: HubServer) -> None:
    hub.add("acme/tins", PIPELINE)
    hub.go_wrong("GET", "/blob/", times=1, cut_after=1000)
    folder = download("acme/tins")
    name = "vae/diffusion_pytorch_model.safetensors"
    assert (folder / name).read_bytes() == PIPELINE[name]


def test_a_connection_cut_for_good_leaves_nothing_that_passes_for_whole(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/tins", PIPELINE)
    hub.go_wrong("GET", "/blob/", times=10**6, cut_after=0)
    message = refusal(RunError, "acme/tins")
    assert f"{hub.url} cannot be reached" in message
    hub.faults.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(HubError, "acme/tins") == (
        "acme/tins: is not, or not wholly, in the cache; download it once with a connection"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert files_in(download("acme/tins")) == PIPELINE.keys() - {".gitattributes"}


def test_offline_from_the_cache(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = hub.add("acme/tins", PIPELINE | UNEXPECTED)
    repo.tags["v1"] = repo.branches["main"]
    online, tagged = download("acme/tins"), download("acme/tins", revision="v1")
    part = download("acme/tins", subfolder="vae")
    recipe = download_recipe("acme/tins")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download("acme/tins") == online
    assert download("acme/tins", revision="v1") == tagged
    assert download("acme/tins", subfolder="vae") == part
    assert download_recipe("acme/tins") == recipe
    assert not hub.requests
    for refused in ("acme/never", "acme/tins@v2"):
        assert "is not, or not wholly, in the cache" in refusal(HubError, f"hf://{refused}")


def test_a_part_of_a_repository_is_no_pipeline_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("acme/tins", PIPELINE)
    parts = ["recipe.yaml", "model_index.json", *(name for name in PIPELINE if name.startswith(("unet/", "vae/")))]
    last = "unet/diffusion_pytorch_model-00001-of-00002.safetensors"
    for part in (part for part in parts if part != last):  # as other programs do it: without a list of all files
        hf_hub_download("acme/tins", part)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download_recipe("acme/tins").read_bytes() == b"name: tins\n"
    assert "not wholly, in the cache" in refusal(HubError, "acme/tins")
    assert download("acme/tins", subfolder="vae").is_dir()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hf_hub_download("acme/tins", last)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download("acme/tins").is_dir()


def test_without_a_connection_the_cache_serves_and_says_so(hub: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    hub.add("acme/tins", PIPELINE)
    folder = download("acme/tins")
    hub.go_wrong("GET", "/api/models", times=10**6, status=503, message="down for maintenance")
    assert download("acme/tins") == folder
    assert caplog.messages == ["acme/tins: the Hub cannot be reached; taking the copy in the cache"]
    hub.add("acme/boxes", PIPELINE)
    assert refusal(RunError, "acme/boxes") == (
        "acme/boxes: the Hub answered 503 (down for maintenance); try again later"
    )


def test_no_network(tmp_path: Path, no_waiting: None) -> None:
    # Nothing listens on the port while no server is there.
    message = refusal(RunError, "acme/tins", cache_dir=tmp_path)
    assert message.startswith(f"acme/tins: {constants.ENDPOINT} cannot be reached (")
    assert message.endswith("; check the connection and try again")
    with pytest.raises(RunError, match="cannot be reached"):
        download_recipe("acme/tins", cache_dir=tmp_path)


def test_a_name_that_was_meant_as_a_path(tmp_path: Path, no_waiting: None) -> None:
    with pytest.raises(RunError, match=r"cannot be reached .*; nor is there a folder acme/tins here$"):
        local_folder("acme/tins", cache_dir=tmp_path)
    with pytest.raises(WeightsError, match=r"^runs/tins: no such folder"):
        local_folder("runs/tins", cache_dir=tmp_path)
    with pytest.raises(RunError, match=r"and try again$"):
        local_folder("hf://runs/tins", cache_dir=tmp_path)


def test_a_recipe_that_is_not_there(hub: HubServer) -> None:
    hub.add("acme/tins", {"model_index.json": b"{}"})
    with pytest.raises(HubError, match=r"^acme/tins: holds no recipe\.yaml; it was not pushed by vae-ldm push$"):
        download_recipe("acme/tins")
    with pytest.raises(HubError, match="has no revision v9"):
        download_recipe("hf://acme/tins@v9")


@pytest.mark.slow
def test_a_full_disk_is_one_line(hub: HubServer, small_disk: object) -> None:
    hub.add("acme/tins", PIPELINE)
    disk = small_disk(200)
    message = refusal(RunError, "acme/tins", cache_dir=disk)
    assert message.startswith("acme/tins: no space left on device; make room, or put the cache elsewhere")
    small_disk(2000)
    assert files_in(download("acme/tins", cache_dir=disk)) == PIPELINE.keys() - {".gitattributes"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("acme/tins", ("acme/tins", None)),
        ("hf://acme/tins", ("acme/tins", None)),
        ("hf://acme/tins@refs/pr/1", ("acme/tins", "refs/pr/1")),
        ("acme/tins@v1", ("acme/tins", "v1")),
    ],
)
def test_names(name: str, expected: tuple[str, str | None]) -> None:
    assert parse_name(name) == expected


@pytest.mark.parametrize(
    "name", ["tins", "a/b/c", "../tins", "acme/", "acme/ti ns", "https://hub/acme/tins", "", "a/.."]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(VaeLdmError, match=r"is no name of a repository; give ORG/NAME"):
        parse_name(name)


def test_two_revisions() -> None:
    with pytest.raises(HubError, match="names the revision v1, and v2 is asked for beside it"):
        parse_name("hf://acme/tins@v1", "v2")
    assert parse_name("hf://acme/tins@v1", "v1") == ("acme/tins", "v1")


def test_it_needs_no_torch() -> None:
    script = "import sys, vae_ldm.hub; print([name for name in ('torch', 'diffusers') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout == "[]\n"
