"""To the Hub: a set of files as one commit, and no commit where nothing has changed."""

import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, ModelInfo, constants, get_token
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import enable_progress_bars
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from vae_ldm import starter
from vae_ldm.errors import HubError, first_line
from vae_ldm.hub.failures import LOG_IN, in_plain_words
from vae_ldm.hub.files import check_names, is_expected
from vae_ldm.hub.names import parse_name

_MADE_BY_THE_HUB = (".gitattributes", "README.md", "LICENSE", ".gitignore")


class Pushed(NamedTuple):
    """What a push left."""

    url: str
    commit: str
    num_changed: int
    """Files added, changed or deleted; 0: the repository was like that already, and there is no new commit."""
    is_private: bool


def check_token(name: str, *, token: str | None = None) -> str:
    """The repository ORG/NAME to push to. Raises HubError where it is no name, or there is no token to push with.

    Nothing is asked of the Hub.
    """
    repository, _ = parse_name(name)
    with in_plain_words(repository, token=token):
        if (token or get_token()) is None:
            raise HubError(f"{repository}: there is no token to push with; {LOG_IN}")
    return repository


def check_access(name: str, *, token: str | None = None) -> None:
    """Raise what a push to a repository would be refused with for its token; nothing is created.

    HubError where there is no token, the Hub does not know it or it may only read; RunError without a connection.
    """
    repository = check_token(name, token=token)
    with in_plain_words(repository, token=token):
        access = HfApi(token=token).whoami().get("auth", {}).get("accessToken", {})
    if access.get("role") == "read":
        raise HubError(
            f"{repository}: the token {access.get('displayName')!r} may only read; make one that may write, "
            "at the Hub's settings/tokens, and log in with it"
        )


def upload(
    files: Mapping[str, Path | bytes],
    name: str,
    *,
    message: str,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    token: str | None = None,
    show_progress: bool = False,
) -> Pushed:
    """Make a repository's branch hold exactly `files` (path in the repository -> file or bytes), in one commit.

    The repository is made where there is none: private unless `private` is False. Files of an earlier push that are
    not among `files` are deleted, others are left alone. Large files go first and are not sent twice, so that a push
    that was cut off goes on when it is repeated; until the commit nobody sees any of it.

    Raises HubError where the token may not do that, the repository holds something else, is not as private as asked
    for, `revision` is no branch or `tag` names another commit; RunError where the connection fails.
    """
    repository, branch = parse_name(name, revision)
    check_names(repository, files)
    assert all(map(is_expected, files)), [path for path in files if not is_expected(path)]
    check_access(repository, token=token)
    if show_progress and not constants.HF_HUB_DISABLE_PROGRESS_BARS:
        enable_progress_bars()  # transformers switches the Hub's off together with its own
    api = HfApi(token=token)
    with in_plain_words(repository, token=token, revision=branch):
        api.create_repo(repository, private=private is not False, exist_ok=True)
        about = api.model_info(repository)
        _check_ours(repository, about)
        _check_private(repository, about, private)
        refs = api.list_repo_refs(repository)
        branches = {ref.name: ref.target_commit for ref in refs.branches}
        tags = {ref.name: ref.target_commit for ref in refs.tags}
        branch = branch or "main"
        if branch not in branches and (branch in tags or re.fullmatch(r"[0-9a-f]{40}", branch)):
            raise HubError(f"{repository}: {branch} is no branch, and only a branch can be pushed to")
        head = branches.get(branch) or branches["main"]
        changes = _changes(api, repository, head, files)
        if tag in tags and (changes or tags[tag] != head):
            raise HubError(f"{repository}: the tag {tag} is there already, of other weights; name another")
        if branch not in branches:
            api.create_branch(repository, branch=branch, revision=head)
        commit = head
        if changes:
            # With the parent named, a push that somebody else made meanwhile is not undone.
            commit = api.create_commit(
                repository, changes, commit_message=message, revision=branch, parent_commit=head
            ).oid
        if tag is not None and tag not in tags:
            api.create_tag(repository, tag=tag, revision=commit)
    return Pushed(f"{api.endpoint}/{repository}", commit, len(changes), bool(about.private))


def _changes(
    api: HfApi, repository: str, head: str, files: Mapping[str, Path | bytes]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes the commit `head` hold the files: those that differ are added, those of an earlier push deleted."""
    entries = api.list_repo_tree(repository, recursive=True, revision=head)
    there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    changed = [path for path, content in files.items() if path not in there or not _is_same(content, there[path])]
    stale = [path for path in there if is_expected(path) and path not in files]
    return [
        *(CommitOperationAdd(path, files[path]) for path in changed),
        *(CommitOperationDelete(path, is_folder=False) for path in stale),
    ]


def licenses_of(source: str, *, token: str | None = None) -> list[str]:
    """The licences that the card of a folder, of a repository or of the starter names; none where none is named.

    Raises HubError where the card cannot be read, or the repository cannot be had.
    """
    folder = starter.STARTER_FOLDER if source == starter.STARTER else Path(source)
    if folder.is_dir():
        card = folder / "README.md"
        try:
            named = ModelCard.load(card).data.get("license") if card.is_file() else None
        except Exception as error:  # no UTF-8, no YAML, or YAML of something else: each library has its own
            raise HubError(f"{card}: its metadata cannot be read ({first_line(error)})") from error
    else:
        repository, revision = parse_name(source)
        with in_plain_words(repository, token=token, revision=revision):
            data = HfApi(token=token).model_info(repository, revision=revision).card_data
        named = None if data is None else data.get("license")
    return [name for name in (named if isinstance(named, list) else [named]) if isinstance(name, str) and name]


def _check_ours(repository: str, about: ModelInfo) -> None:
    """Raise HubError where a repository of this name holds anything that no push has left there."""
    names = {sibling.rfilename for sibling in about.siblings or ()}
    if "recipe.yaml" not in names and names.difference(_MADE_BY_THE_HUB):
        raise HubError(
            f"{repository}: the name is taken by a repository that was not pushed by vae-ldm "
            "(it holds no recipe.yaml); name another"
        )


def _check_private(repository: str, about: ModelInfo, private: bool | None) -> None:
    if private is not None and bool(about.private) != private:
        is_, asked = ("public", "private") if private else ("private", "public")
        raise HubError(
            f"{repository}: is {is_}, and {asked} was asked for; change it in its settings on the Hub, or name another"
        )


def _is_same(content: Path | bytes, there: RepoFile) -> bool:
    with BytesIO(content) if isinstance(content, bytes) else content.open("rb") as stream:
        if there.lfs is not None:
            return sha_fileobj(stream).hex() == there.lfs.sha256
        return git_hash(stream.read()) == there.blob_id
