"""`vae-ldm train`: every stage that the recipe names and that is not finished yet, in order."""

from collections.abc import Sequence

from safetensors import SafetensorError

from vae_ldm.build import build_source
from vae_ldm.errors import RunError
from vae_ldm.recipe import Recipe
from vae_ldm.run.autoencoder_stage import run_autoencoder_stage
from vae_ldm.run.diffusion_stage import check_prompts, run_diffusion_stage
from vae_ldm.run.evaluate import run_evaluation_stage
from vae_ldm.run.folder import Stage
from vae_ldm.run.push import check_push, push_when_asked, pusher_on_the_way
from vae_ldm.run.session import Session


def train_run(recipe: Recipe, *, dry_run: bool = False, restart: Sequence[Stage] = ()) -> None:
    """Run the recipe to its end, from wherever it was stopped, and say where everything is.

    Raises VaeLdmError for what the user can mend and RunError for what went wrong on the way.
    """
    session = Session.of(recipe)
    if dry_run:
        from vae_ldm.run.dry_run import describe_run

        describe_run(session)
        return
    if not session.run.path.exists():
        build_source(recipe)  # raises before a wrong path has left an empty run behind
    with session.run.locked():
        session.run.adopt(recipe, restart=restart)
        check_prompts(session)
        check_push(session)
        try:
            autoencoder = run_autoencoder_stage(session)
            run_diffusion_stage(session, autoencoder, pusher_on_the_way)
            run_evaluation_stage(session, autoencoder)
            push_when_asked(session)
        except SafetensorError as error:  # its name for a full disk, which is no OSError
            raise RunError(f"{session.run.path}: weights cannot be written: {error}") from error
    session.say_where()
