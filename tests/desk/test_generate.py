import shutil

import diffusers
import numpy as np
import pytest
from PIL import Image

from vae_ldm.desk import generate as generating
from vae_ldm.desk.generate import generate
from vae_ldm.errors import VaeLdmError, WeightsError
from vae_ldm.opening import open_pipeline
from vae_ldm.pipelines.sampling import unknown_words


def test_one_file_a_picture_and_a_grid(trained_run, tmp_path):
    files = generate(trained_run.path, "a photo", num_images=3, seed=7, output_dir=tmp_path, num_inference_steps=2)
    assert [file.name for file in files] == ["000007.png", "000008.png", "000009.png", "grid.png"]
    assert all(Image.open(file).size == (16, 16) for file in files[:3])
    assert Image.open(files[3]).size >= (32, 32)


def test_several_prompts_have_a_folder_each_and_a_group_each_of_the_grid(trained_run, tmp_path, monkeypatch):
    monkeypatch.setattr(generating, "_BATCH_SIZE", 4)  # a batch holds pictures of two prompts
    prompts = ["a photo", "a photo of a/b?", ""]
    settings = {"num_images": 3, "seed": 5, "num_inference_steps": 2}
    files = generate(trained_run.path, prompts, output_dir=tmp_path / "all", **settings)
    folders = ["1-a-photo", "2-a-photo-of-a-b", "3-anything"]
    names = [f"{folder}/{number:06d}.png" for folder in folders for number in (5, 6, 7)]
    assert [file.relative_to(tmp_path / "all").as_posix() for file in files] == [*names, "grid.png"]
    cell = 96  # 16 px, enlarged six times
    page = np.asarray(Image.open(files[-1]))
    assert page.shape[1] == 6 * cell + 4 * 2 + 12 + 2 * 12, "two groups of three side by side"
    for row, prompt in enumerate(prompts):
        alone = generate(trained_run.path, prompt, output_dir=tmp_path / str(row), **settings)
        for number in range(3):
            one, other = (np.asarray(Image.open(file)).astype(int) for file in (alone[number], files[3 * row + number]))
            assert np.abs(one - other).max() <= 1
    first = np.asarray(Image.open(files[3])).repeat(6, axis=0).repeat(6, axis=1)
    left = 12 + 3 * cell + 2 * 2 + 12
    assert np.array_equal(page[12 : 12 + cell, left : left + cell], first.reshape(cell, cell, -1)), "the second group"


def test_more_pictures_of_a_prompt_than_a_row_takes_are_one_row(trained_run, tmp_path):
    settings = {"num_images": 9, "num_inference_steps": 1}
    files = generate(trained_run.path, ["a photo", "a tin"], output_dir=tmp_path / "out", **settings)
    width, height = Image.open(files[-1]).size
    assert width > 9 * 96
    assert 2 * 96 < height < 3 * 96


def test_a_prompt_without_quotes_is_noticed(trained_run, tmp_path, capsys):
    settings = {"num_images": 1, "num_inference_steps": 1}
    generate(trained_run.path, ["a", "photo"], output_dir=tmp_path / "words", **settings)
    assert "2 prompts of one word; a prompt of several words is written in quotes" in capsys.readouterr().err
    generate(trained_run.path, ["a photo", "photo"], output_dir=tmp_path / "prompts", **settings)
    assert "quotes" not in capsys.readouterr().err


def test_no_prompt_at_all_is_one_line(trained_run, tmp_path):
    with pytest.raises(VaeLdmError, match=r'^there is no prompt; "" draws anything$'):
        generate(trained_run.path, [], output_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_long_prompts_and_many_of_them_have_names_in_order():
    names = generating._folder_names(["x" * 300, *["a tin"] * 9])
    assert names[0] == "01-" + "x" * 60
    assert names[-1] == "10-a-tin"
    assert len(set(names)) == 10
    assert sorted(names) == names


def test_picture_i_follows_from_the_seed_however_many_are_asked_for(trained_run, tmp_path, monkeypatch):
    monkeypatch.setattr(generating, "_BATCH_SIZE", 2)
    sizes = {3: tmp_path / "three", 1: tmp_path / "one"}
    for num_images, folder in sizes.items():
        generate(trained_run.path, "", num_images=num_images, seed=9 - num_images, output_dir=folder)
    # seeds 6, 7, 8 and seed 8
    one, three = (np.asarray(Image.open(folder / "000008.png")).astype(int) for folder in (sizes[1], sizes[3]))
    assert np.abs(one - three).max() <= 1


def test_a_run_folder_and_its_pipeline_folder_are_the_same(trained_run, tmp_path):
    pictures = [
        np.asarray(Image.open(generate(source, "a photo", num_images=1, output_dir=tmp_path / str(number))[0]))
        for number, source in enumerate((trained_run.path, trained_run.pipeline))
    ]
    assert np.array_equal(*pictures)


def test_guidance_and_steps_are_heard(trained_run, tmp_path):
    settings: list[dict[str, float]] = [{}, {"guidance_scale": 7.5}, {"num_inference_steps": 3}, {"guidance_scale": 0}]
    pictures = []
    for number, setting in enumerate(settings):
        folder = tmp_path / str(number)
        files = generate(trained_run.path, "a photo", num_images=1, output_dir=folder, **setting)  # type: ignore[arg-type]
        pictures.append(Image.open(files[0]).tobytes())
    assert len(set(pictures)) == 4


def test_steps_and_guidance_are_by_default_those_of_the_recipe(trained_run, tmp_path):
    settings: list[dict[str, float]] = [{}, {"num_inference_steps": 2, "guidance_scale": 2.0}]
    asked, told = (
        generate(trained_run.pipeline, "a photo", num_images=1, output_dir=tmp_path / str(number), **setting)  # type: ignore[arg-type]
        for number, setting in enumerate(settings)
    )
    assert asked[0].read_bytes() == told[0].read_bytes()


def test_a_prompt_that_is_not_utf_8_is_one_line(trained_run, tmp_path):
    with pytest.raises(VaeLdmError, match=r"^the prompt a caf\S+ is not UTF-8; type it in a UTF-8 terminal$"):
        generate(trained_run.path, "a caf\udce9", output_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_unknown_words_are_named_in_one_line(trained_run, tmp_path, capsys):
    settings = {"num_images": 1, "num_inference_steps": 1}
    generate(trained_run.path, "a Photo of a zebra, a unicorn; a zebra!", output_dir=tmp_path / "unknown", **settings)
    assert capsys.readouterr().err == "this model was not trained on the words: zebra, unicorn\n"
    generate(trained_run.path, "A PHOTO OF", output_dir=tmp_path / "known", **settings)
    assert capsys.readouterr().err == ""


def test_a_prompt_that_is_cut_is_one_line_that_names_the_words(trained_run, tmp_path, caplog, capfd):
    pipeline = open_pipeline(trained_run.path)
    whole = " ".join(["photo"] * (pipeline.tokenizer.model_max_length - 2))  # begin and end take two
    diffusers.utils.logging.set_verbosity_warning()  # as where nobody has quietened it
    settings = {"num_images": 1, "num_inference_steps": 1}
    generate(trained_run.path, whole, output_dir=tmp_path / "whole", **settings)
    assert caplog.messages == []
    line = 'the prompt is 2 tokens too long for this model, which does not read "a tin"'
    generate(trained_run.path, f"{whole} a tin", output_dir=tmp_path / "cut", **settings)
    assert caplog.messages == [line]
    grey = np.zeros((16, 16, 3), np.uint8)
    for _ in range(2):
        pipeline(f"{whole} a tin", num_inference_steps=1)
        pipeline.vary(grey, n=1, prompt=f"{whole} a tin", num_inference_steps=2)
    assert caplog.messages == [line] * 2, "once for each pipeline"
    assert "truncated" not in "".join(capfd.readouterr())


def test_pictures_that_are_there_are_never_overwritten(trained_run, tmp_path):
    settings = {"num_images": 1, "num_inference_steps": 1, "output_dir": tmp_path / "samples"}
    before = generate(trained_run.path, "a photo", **settings)[0].read_bytes()
    with pytest.raises(VaeLdmError, match=r"samples: exists already; name another folder with --out"):
        generate(trained_run.path, "A PHOTO OF", **settings)
    assert (tmp_path / "samples" / "000000.png").read_bytes() == before


def test_a_missing_run_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(WeightsError, match=r"^runs/nope: no such folder; give a run folder"):
        open_pipeline("runs/nope")


def test_a_tokenizer_without_an_unknown_word_knows_all(trained_run):
    pipeline = open_pipeline(trained_run.path)
    pipeline.tokenizer.unk_token = pipeline.tokenizer.eos_token  # as CLIP's
    assert unknown_words(pipeline, "zebra") == []


@pytest.mark.parametrize("what", ["absent", "unfinished", "broken"])
def test_what_is_no_pipeline_is_refused_in_one_line(trained_run, tmp_path, what):
    source = tmp_path / "run"
    if what != "absent":
        source.mkdir()
        shutil.copy(trained_run.recipe, source)
    if what == "broken":
        shutil.copytree(trained_run.pipeline, source / "pipeline")
        (source / "pipeline" / "unet" / "config.json").unlink()
        (source / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError) as caught:
        generate(source, "", output_dir=tmp_path / "out")
    assert str(caught.value).startswith(f"{source}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
