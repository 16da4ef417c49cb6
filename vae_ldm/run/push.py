"""`vae-ldm push`: a finished run as one repository of the Hub, after its export was compared with what was trained."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL

from vae_ldm.assembly import DiffusionParts, class_prompts
from vae_ldm.errors import RunError, VaeLdmError
from vae_ldm.files import remove
from vae_ldm.hub import Pushed, check_access, licenses_of, upload
from vae_ldm.hub.files import is_expected
from vae_ldm.hub.model_card import CardFacts, Licence, model_card
from vae_ldm.hub.names import parse_name
from vae_ldm.models.stored_config import is_config, without_origin
from vae_ldm.opening import read_metrics
from vae_ldm.paths import is_local
from vae_ldm.recipe import Recipe, dump_recipe, parts
from vae_ldm.recipe.portable import portable
from vae_ldm.run.diffusion_stage import save_pipeline
from vae_ldm.run.fingerprint import check_autoencoder, check_pipeline, pipeline_fingerprint
from vae_ldm.run.folder import Stage
from vae_ldm.run.session import Session
from vae_ldm.starter import STARTER
from vae_ldm.text import counted
from vae_ldm.training.lit_latent_diffusion import LitLatentDiffusion


def push(
    run: Path | str,
    repository: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    license: str | None = None,  # noqa: A002  # the Hub's word
    show_photos: bool = False,
    token: str | None = None,
) -> Pushed:
    """Push a finished run to ORG/NAME of the Hub: pipeline, recipe, metrics, sample grid and card, in one commit.

    >>> import vae_ldm
    >>> pushed = vae_ldm.push("runs/claims-32", "ORG/claims-32", tag="v1")
    >>> pushed.is_private
    True
    >>> vae_ldm.push("runs/claims-32", "ORG/claims-32").commit == pushed.commit  # nothing has changed
    True

    `private` None makes a new repository private and leaves an old one as it is. `revision` is a branch, made where
    there is none; `tag` names what was pushed. `license` is an identifier of the Hub, by default that of the
    pretrained weights that the run started from. With `show_photos` held-out photos travel too, each beside its
    reconstruction. A push that failed is repeated as it is; nothing of it was visible, and what was sent is not sent
    again.

    Raises VaeLdmError where the run is not finished, WeightsError where its export is not what was trained, HubError
    and RunError as `vae_ldm.hub.upload` does.
    """
    session = Session.opened(Path(run))
    name, branch = parse_name(repository, revision)
    where = parts.Hub(
        repository=name,
        revision=branch,
        tag=tag,
        license=license,
        show_photos=show_photos,
    )
    with session.run.locked():
        return _push_run(session, where, private=private, token=token)


def push_when_asked(session: Session) -> None:
    """What `hub:` in a recipe asks for when the run is finished."""
    if session.recipe.hub is not None:
        _push_run(session, session.recipe.hub, private=session.recipe.hub.private, token=None)


def check_push(session: Session) -> None:
    """Raise HubError before the first stage trains where the recipe asks for a push that the Hub would refuse.

    Without a connection it only says so: there may be one when the run is finished. A licence that the weights'
    card does not tell is spoken of now, while the recipe can still name it.
    """
    where = session.recipe.hub
    if where is None:
        return
    try:
        check_access(where.repository)
    except RunError as error:
        session.say(f"push: {error}; the run goes on, and is pushed at its end")
    else:
        _licence(session, where.license, None)


def pusher_on_the_way(
    session: Session, diffusion: DiffusionParts, autoencoder: AutoencoderKL
) -> Callable[[LitLatentDiffusion, int], None]:
    """A function of (module, step) that pushes the pipeline as it stands; where that fails, training goes on."""
    where, stage = session.recipe.hub, session.recipe.diffusion
    assert where is not None
    assert stage is not None
    last = stage.trainer.max_steps

    def push_step(module: LitLatentDiffusion, step: int) -> None:
        scheduler = copy.deepcopy(diffusion.scheduler)
        now = DiffusionParts(diffusion.tokenizer, module.text_encoder, module.unet, scheduler)
        folder, picture = session.run.path / "pushing", session.run.path / "pushing.png"
        try:
            facts = pipeline_fingerprint(now.pipeline(autoencoder), picture)
            save_pipeline(now, autoencoder, folder)
            check_pipeline(folder, facts["weights"], picture)
            pushed = upload(
                _files(session, where, folder, step=(step, last), token=None),
                where.repository,
                message=f"{session.recipe.name}: step {step} of {last}",
                private=where.private,
                revision=where.revision,
            )
        except (VaeLdmError, RunError, OSError) as error:
            session.say(f"push at step {step} failed, training goes on: {error}")
        else:
            _say(session, pushed)
        finally:
            remove(folder)
            remove(picture)

    return push_step


def _push_run(session: Session, where: parts.Hub, *, private: bool | None, token: str | None) -> Pushed:
    run, recipe = session.run, session.recipe
    stage: Stage = "autoencoder" if recipe.diffusion is None else "diffusion"
    session.require_trained()
    if recipe.diffusion is not None and not run.pipeline.is_dir():
        raise VaeLdmError(
            f"{run.path}: is a LoRA beside its base, and a push sends a whole pipeline; train it with "
            "diffusion.lora.merge=true"
        )
    is_of_student = recipe.diffusion is not None and run.exported() == "student"
    digests = (run.finished("distillation" if is_of_student else stage) or {}).get("weights")
    if digests is None:
        raise VaeLdmError(f"{run.path}: was trained before runs kept what a push compares with; train it again")
    check_access(where.repository, token=token)
    folder = run.autoencoder if recipe.diffusion is None else run.pipeline
    session.say(f"push: opening {folder} in plain diffusers, to compare it with what was trained")
    if recipe.diffusion is None:
        check_autoencoder(folder, digests)
    else:
        check_pipeline(folder, digests, run.student_reference if is_of_student else run.reference)
    pushed = upload(
        _files(session, where, folder, step=None, token=token),
        where.repository,
        message=f"{recipe.name}: trained, measured and pushed by vae-ldm",
        private=private,
        revision=where.revision,
        tag=where.tag,
        token=token,
        show_progress=session.console.is_terminal,
    )
    _say(session, pushed)
    return pushed


def _files(
    session: Session, where: parts.Hub, folder: Path, *, step: tuple[int, int] | None, token: str | None
) -> dict[str, Path | bytes]:
    """What the repository is to hold: path in it -> file or bytes."""
    run, recipe = session.run, session.recipe
    travelling = portable(recipe)
    weights = folder.glob("*.*") if recipe.diffusion is None else (file for file in folder.rglob("*") if file.is_file())
    files: dict[str, Path | bytes] = {file.relative_to(folder).as_posix(): file for file in weights if file.is_file()}
    files.pop("log.csv", None)
    # What a file manager, an editor or a network disk leaves in a folder is nobody's weights.
    if strange := [name for name in sorted(files) if not is_expected(name)]:
        session.say(f"push: left out, for no part of a pipeline: {', '.join(strange)}")
        files = {name: file for name, file in files.items() if name not in strange}
    for name, file in files.items():
        if isinstance(file, Path) and is_config(file.name):
            files[name] = without_origin(file.read_text(encoding="utf-8")).encode()
    metrics = read_metrics(run.path)
    if step is None:
        grids = ["samples.png", *(["reconstructions.png"] if where.show_photos else [])]
        beside = {f"samples/{name}": run.samples / name for name in grids} | {"metrics.json": run.metrics}
        files |= {name: file for name, file in beside.items() if file.is_file()}
    else:
        metrics |= {"measurements": [], "timings": [], "drawn_with": {}, "distillation": {}}
    card = CardFacts(
        where.repository,
        travelling.model_dump(mode="json"),
        metrics,
        _licence(session, where.license, token),
        base_models=[source for source in _bases(recipe) if not is_local(source)],
        from_starter=STARTER in _bases(recipe),
        pictures=[name for name in files if name.endswith(".png")],
        prompts=_prompts(recipe, metrics["data"]),
        step=step,
    )
    return files | {"recipe.yaml": dump_recipe(travelling).encode(), "README.md": f"{model_card(card)}\n".encode()}


def _prompts(recipe: Recipe, data: dict[str, Any]) -> list[str]:
    """The prompts of the classes that were trained; `data` is that of metrics.json."""
    if recipe.diffusion is None or recipe.diffusion.conditioning != "class":
        return []
    untrained = data.get("untrained_classes", [])
    return class_prompts(recipe, [name for name in data.get("class_names", []) if name not in untrained])


def _bases(recipe: Recipe) -> list[str]:
    """Folders and Hub names that the run's weights were started from, and `starter`."""
    found = [recipe.autoencoder.from_pretrained]
    if recipe.diffusion is not None:
        found.append(recipe.diffusion.from_pretrained)
    if recipe.diffusion is not None and isinstance(recipe.diffusion.text_encoder, parts.PretrainedTextEncoder):
        found.append(recipe.diffusion.text_encoder.from_pretrained)
    return list(dict.fromkeys(source for source in found if source is not None))


def _licence(session: Session, asked: str | None, token: str | None) -> Licence:
    """The one that was asked for, else that of the weights that the run was started from."""
    if asked is not None:
        return Licence(asked, "says its maker")
    found: list[tuple[str, str]] = []
    for source in _bases(session.recipe):
        try:
            found += [(name, source) for name in licenses_of(source, token=token)]
        except (VaeLdmError, RunError) as error:
            session.say(f"push: {error}; no licence is taken from it, unless you name one (hub.license, or --license)")
    names = {name for name, _ in found}
    if not names:
        return Licence()
    if len(names) == 1:
        return Licence(names.pop(), "as the weights it was started from")
    parts_differ = ", ".join(f"{name} ({_in_public(of)})" for name, of in found)
    return Licence("other", f"because its parts differ: {parts_differ}")


def _in_public(source: str) -> str:
    """What a card that others read calls weights: no path of this machine."""
    if source == STARTER:
        return "the starter of vae_ldm"
    return "weights of a folder" if is_local(source) else source


def _say(session: Session, pushed: Pushed) -> None:
    seen_by = "private" if pushed.is_private else "public"
    if pushed.num_changed:
        what = f"{counted(pushed.num_changed, 'file')} as commit {pushed.commit[:7]}"
    else:
        what = f"nothing, it was there already as commit {pushed.commit[:7]}"
    session.say(f"pushed to {pushed.url} ({seen_by}): {what}")
