"""Names of repositories: ORG/NAME, hf://ORG/NAME and hf://ORG/NAME@REVISION."""

from huggingface_hub.utils import HFValidationError, validate_repo_id

from vae_ldm.errors import HubError
from vae_ldm.paths import HUB_PREFIX


def parse_name(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """ORG/NAME and the revision, which is part of the name or given beside it. Raises HubError where it is no name."""
    repository, _, in_name = name.removeprefix(HUB_PREFIX).partition("@")
    if in_name and revision and in_name != revision:
        raise HubError(f"{name}: names the revision {in_name}, and {revision} is asked for beside it; give one of them")
    try:
        validate_repo_id(repository)
    except HFValidationError:
        repository = ""
    if repository.count("/") != 1:
        raise HubError(f"{name}: is no name of a repository; give ORG/NAME, in letters, digits and . _ -")
    return repository, revision or in_name or None
