"""Pushing to a Hub of our own with the real client."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.hub.server import HubServer
from vae_ldm.errors import HubError, RunError
from vae_ldm.hub import Pushed, check_access, download, licenses_of, upload

CARD = b"---\nlibrary_name: diffusers\n---\n# Tins\n"
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
COMMIT = "POST /api/models/acme/tins/commit/main"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path | bytes]:
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(range(256)) * 4000)
    return {
        "README.md": CARD,
        "recipe.yaml": b"name: tins\n",
        "vae/config.json": b"{}",
        WEIGHTS: weights,
        "unet/diffusion_pytorch_model.safetensors": b"of the unet",
    }


def push(files: dict[str, Path | bytes], **settings: object) -> Pushed:
    return upload(files, "acme/tins", message="Tins", **settings)


def refusal(error: type[Exception], files: dict[str, Path | bytes], **settings: object) -> str:
    with pytest.raises(error) as caught:
        push(files, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def held(hub: HubServer, revision: str = "main") -> dict[str, bytes]:
    """What the repository holds, less what the Hub itself put there."""
    files = hub.repos["acme/tins"].at(revision).files
    return {path: file.content for path, file in files.items() if path != ".gitattributes"}


def contents(files: dict[str, Path | bytes]) -> dict[str, bytes]:
    return {path: content.read_bytes() if isinstance(content, Path) else content for path, content in files.items()}


def test_one_commit_in_a_private_repository(hub: HubServer, anna: str, files: dict) -> None:
    pushed = push(files)
    repo = hub.repos["acme/tins"]
    assert held(hub) == contents(files)
    assert [commit.title for commit in repo.history] == ["Tins", "initial commit"]
    assert pushed == Pushed(f"{hub.url}/acme/tins", repo.branches["main"], len(files), True)
    assert repo.private


def test_what_was_pushed_comes_back(hub: HubServer, anna: str, files: dict) -> None:
    push(files)
    folder = download("acme/tins")
    assert {name: (folder / name).read_bytes() for name in files} == contents(files)


def test_a_repeated_push_makes_no_commit(hub: HubServer, anna: str, files: dict) -> None:
    first = push(files)
    again = push(files)
    assert (again.commit, again.num_changed) == (first.commit, 0)
    assert len(hub.repos["acme/tins"].history) == 2
    assert hub.requests[COMMIT] == 1


def test_only_what_changed_is_sent(hub: HubServer, anna: str, files: dict) -> None:
    push(files)
    hub.requests.clear()
    assert push(files | {"vae/config.json": b'{"a": 1}'}).num_changed == 1
    assert not [request for request in hub.requests if request.startswith("PUT")]
    assert held(hub)["vae/config.json"] == b'{"a": 1}'


def test_files_of_an_earlier_push_go_and_those_of_other_people_stay(hub: HubServer, anna: str, files: dict) -> None:
    push(files)
    others = {path: file.content for path, file in hub.repos["acme/tins"].at("main").files.items()}
    hub.add("acme/tins", others | {"LICENSE": b"words", "notes/mine.md": b"words"})
    del files["unet/diffusion_pytorch_model.safetensors"]
    assert push(files).num_changed == 1
    assert held(hub) == contents(files) | {"LICENSE": b"words", "notes/mine.md": b"words"}


def test_a_branch_and_a_tag(hub: HubServer, anna: str, files: dict) -> None:
    first = push(files, tag="v1")
    second = push(files | {"recipe.yaml": b"name: again\n"}, revision="draft", tag="v2")
    repo = hub.repos["acme/tins"]
    assert repo.branches == {"main": first.commit, "draft": second.commit}
    assert repo.tags == {"v1": first.commit, "v2": second.commit}
    assert held(hub) == contents(files)
    assert held(hub, "v2")["recipe.yaml"] == b"name: again\n"
    assert push(files, tag="v1").commit == first.commit


def test_a_tag_of_other_weights_is_refused_before_anything_is_sent(hub: HubServer, anna: str, files: dict) -> None:
    push(files, tag="v1")
    message = refusal(HubError, files | {"recipe.yaml": b"name: again\n"}, tag="v1")
    assert message == "acme/tins: the tag v1 is there already, of other weights; name another"
    assert held(hub) == contents(files)


def test_a_tag_or_a_commit_is_no_branch(hub: HubServer, anna: str, files: dict) -> None:
    commit = push(files, tag="v1").commit
    for revision in ("v1", commit):
        assert refusal(HubError, files, revision=revision) == (
            f"acme/tins: {revision} is no branch, and only a branch can be pushed to"
        )


def test_an_upload_that_is_cut_once_is_tried_again(hub: HubServer, anna: str, files: dict) -> None:
    hub.go_wrong("PUT", "/upload/", times=1, cut_after=1000)
    push(files)
    assert held(hub) == contents(files)


def test_a_push_that_is_cut_for_good_shows_nothing_and_goes_on_when_repeated(
    hub: HubServer, anna: str, files: dict
) -> None:
    hub.go_wrong("PUT", "/upload/", times=10**6, cut_after=1000)
    message = refusal(RunError, files)
    assert message.startswith(f"acme/tins: {hub.url} cannot be reached (")
    assert held(hub) == {}

    # The small file gets through, then the connection breaks: it need not be sent again.
    hub.faults.clear()
    small = "unet/diffusion_pytorch_model.safetensors"
    push({"README.md": CARD, "recipe.yaml": b"name: tins\n", small: files[small]}, revision="other")
    hub.requests.clear()
    push(files)
    assert len([request for request in hub.requests if request.startswith("PUT")]) == 1
    assert held(hub) == contents(files)


def test_a_connection_cut_at_the_commit(hub: HubServer, anna: str, files: dict) -> None:
    hub.go_wrong("POST", "/commit/", cut_after=0)
    assert "cannot be reached" in refusal(RunError, files)
    assert held(hub) == {}
    hub.requests.clear()
    push(files)
    assert held(hub) == contents(files)
    assert not [request for request in hub.requests if request.startswith("PUT")]


def test_somebody_else_pushes_meanwhile(hub: HubServer, anna: str, files: dict) -> None:
    push(files)
    hub.go_wrong("POST", "/commit/", status=412, message="A commit has happened since.")
    assert refusal(RunError, files | {"recipe.yaml": b"name: x\n"}) == (
        "acme/tins: somebody else has pushed meanwhile, so nothing was changed; push again"
    )
    assert held(hub) == contents(files)


def test_the_parent_is_named(hub: HubServer, anna: str, files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    refs = HfApi.list_repo_refs

    def push_in_between(self: HfApi, name: str) -> object:
        before = refs(self, name)
        hub.add("acme/tins", {"recipe.yaml": b"of somebody else"})
        return before

    monkeypatch.setattr(HfApi, "list_repo_refs", push_in_between)
    assert "somebody else has pushed meanwhile" in refusal(RunError, files)
    assert held(hub) == {"recipe.yaml": b"of somebody else"}


def test_no_token(hub: HubServer, files: dict) -> None:
    line = "acme/tins: there is no token to push with; run `hf auth login`, or set HF_TOKEN"
    assert refusal(HubError, files) == line
    assert not hub.repos
    with pytest.raises(HubError, match=line):
        check_access("acme/tins")


@pytest.mark.parametrize(
    ("token", "line"),
    [
        ("hf_anna_read", "acme/tins: the token 'anna-read' may only read; make one that may write, at the Hub's"),
        ("hf_wrong", "acme/tins: the Hub does not know the token; make a new one at http"),
        ("hf_ben", "acme/tins: the token's account may not do that (You don't have the rights to create a model under"),
    ],
)
def test_tokens_that_may_not(hub: HubServer, files: dict, token: str, line: str) -> None:
    message = refusal(HubError, files, token=token)
    assert message.startswith(line)
    assert "hf_" not in message
    assert not hub.repos


def test_a_token_that_may_only_read_what_is_there(hub: HubServer, files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    # A fine-grained token has no role to look at: it is the commit that is refused.
    push(files, token="hf_anna", private=False)
    changed = files | {"recipe.yaml": b"name: x\n"}
    assert "may not do that" in refusal(HubError, changed, token="hf_ben")
    assert held(hub) == contents(files)


def test_check_access(hub: HubServer, anna: str) -> None:
    check_access("acme/tins")
    assert set(hub.requests) == {"GET /api/whoami-v2"}
    with pytest.raises(HubError, match="may only read"):
        check_access("acme/tins", token="hf_anna_read")


def test_a_name_that_is_taken(hub: HubServer, anna: str, files: dict) -> None:
    hub.add("acme/tins", {"model.safetensors": b"a language model", "config.json": b"{}"})
    assert refusal(HubError, files) == (
        "acme/tins: the name is taken by a repository that was not pushed by vae-ldm (it holds no recipe.yaml); "
        "name another"
    )
    assert "recipe.yaml" not in held(hub)


def test_an_empty_repository_with_a_readme_is_not_taken(hub: HubServer, anna: str, files: dict) -> None:
    hub.add("acme/tins", {"README.md": b"Soon.", ".gitattributes": b""})
    push(files)
    assert held(hub) == contents(files)


@pytest.mark.parametrize(("is_private", "asked"), [(True, False), (False, True)])
def test_weights_never_go_where_more_people_see_them(
    hub: HubServer, anna: str, files: dict, is_private: bool, asked: bool
) -> None:
    hub.add("acme/tins", {"recipe.yaml": b"name: old\n"}, private=is_private)
    words = ("private", "public") if is_private else ("public", "private")
    assert "is {}, and {} was asked for".format(*words) in refusal(HubError, files, private=asked)
    assert held(hub) == {"recipe.yaml": b"name: old\n"}
    assert push(files).is_private is is_private


def test_public_when_asked_for(hub: HubServer, anna: str, files: dict) -> None:
    assert push(files, private=False).is_private is False
    assert not hub.repos["acme/tins"].private


def test_a_licence_that_the_hub_does_not_know(hub: HubServer, anna: str, files: dict) -> None:
    message = refusal(HubError, files | {"README.md": b"---\nlicense: mine\n---\n"})
    assert message.startswith('acme/tins: the Hub refuses the card: "license" must be one of [')
    assert held(hub) == {}


def test_offline(hub: HubServer, anna: str, files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(RunError, files) == "acme/tins: HF_HUB_OFFLINE is set, and this needs the Hub; unset it"


def test_no_network(no_waiting: None, anna: str, files: dict) -> None:
    assert refusal(RunError, files).endswith("; check the connection and try again")


@pytest.mark.parametrize("path", ["../recipe.yaml", "vae/../../x.json"])
def test_names_that_lead_out(hub: HubServer, anna: str, files: dict, path: str) -> None:
    assert "would be written outside its folder" in refusal(HubError, files | {path: b""})


def test_what_is_not_on_the_list_is_our_mistake(hub: HubServer, anna: str, files: dict) -> None:
    with pytest.raises(AssertionError):
        push(files | {"unet/diffusion_pytorch_model.bin": b"pickle"})


def test_the_licence_of_a_base_model(hub: HubServer, tmp_path: Path) -> None:
    hub.add("acme/base", {"config.json": b"{}"}, card_data={"license": "openrail"})
    hub.add("acme/bare", {"config.json": b"{}"})
    assert licenses_of("acme/base") == ["openrail"]
    assert licenses_of("acme/bare") == []
    assert licenses_of(str(tmp_path)) == []
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    assert licenses_of(str(tmp_path)) == ["mit"]
    with pytest.raises(HubError, match="there is no such repository"):
        licenses_of("acme/absent")
