"""The whole recipe at a hundredth of its size: it learns, it exports, diffusers loads what it wrote."""

import copy
import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline

from engines.embedded.diffusion import (
    attention_to,
    diffusion_loss,
    lcm_scheduler,
    random_timesteps,
    signal_and_noise,
)
from engines.embedded.distill import boundary_scalings, guidance_embedding
from engines.embedded.export import export
from engines.embedded.loop import Loop
from engines.embedded.optimiser import Pair, cosine, orthogonalised
from engines.embedded.person import Portrait
from engines.embedded.presets import SMOKE
from engines.embedded.reading import labels_of
from engines.embedded.scene import Still, Thing
from engines.embedded.training import SHARES, Training, blend, ids_of, new_autoencoder, new_teacher


@pytest.mark.timeout(180)
def test_smoke_training_learns_exports_and_reloads(tmp_path):
    command = [sys.executable, "-m", "engines.embedded", "train", "--preset", "smoke", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=170)

    for stage in ("autoencoder", "text", "teacher"):
        losses = json.loads((tmp_path / f"{stage}.json").read_text())["loss"]
        assert losses[-1][1] < 0.8 * losses[0][1], (stage, losses)
        assert (tmp_path / f"{stage}.png").stat().st_size > 500
    assert json.loads((tmp_path / "student.json").read_text())["step"] == SMOKE.lcd_steps

    pipe = LatentConsistencyModelPipeline.from_pretrained(tmp_path / "weights")
    pipe.set_progress_bar_config(disable=True)
    images = pipe("a red circle", height=64, width=64, num_inference_steps=2, output_type="pt").images
    assert images.shape == (1, 3, 64, 64)
    assert torch.isfinite(images).all()
    assert "4 steps" in json.loads((tmp_path / "weights" / "metrics.json").read_text())
    words = json.loads((tmp_path / "weights" / "tokenizer" / "tokenizer.json").read_text())
    assert words["padding"] is None is words["truncation"], "as its last caller had wanted them"


def test_a_stopped_stage_continues_to_the_same_weights(tmp_path, monkeypatch):
    short = replace(SMOKE, ae_steps=6)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = Training(short, tmp_path / "whole").autoencoder().state_dict()

    class Interrupted(Exception):
        pass

    def run_three(self, take, look=None):
        for _ in range(3):
            take(self.step, self.progress)
            self.step += 1
            self.progress = self.step / self.steps
        self.save()
        raise Interrupted

    with monkeypatch.context() as cut:
        cut.setattr(Loop, "run", run_three)
        with pytest.raises(Interrupted):
            Training(short, tmp_path / "parts").autoencoder()
    resumed = Training(short, tmp_path / "parts").autoencoder().state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, msg=name)


@pytest.mark.timeout(180)
def test_a_run_fed_by_painters_goes_through_every_stage_when_the_clock_is_short(tmp_path):
    """What a GPU does: workers draw all along, and each stage ends by the clock, however few its steps."""
    preset = replace(SMOKE, workers=3, most=300)
    looks = []
    run = Training(preset, tmp_path, seconds=3.0)
    student, ae = run.run(lambda stage, ae: lambda model, step: looks.append((stage, step)))

    assert [stage for stage, _ in looks] == ["teacher", "student"]
    for stage in list(SHARES)[:-1]:
        state = torch.load(tmp_path / f"{stage}.pt", weights_only=False)
        assert state["progress"] == 1.0
        assert state["step"] >= 1
    assert preset.pool <= len(run.pool) <= preset.most
    assert float(ae.config.scaling_factor) > 0
    assert all(torch.isfinite(p).all() for p in student.unet.parameters())


def test_a_stage_cut_off_by_the_clock_spends_what_is_left_of_its_schedule_in_the_time_it_is_given(tmp_path):
    rng, generator = Random(1), torch.Generator().manual_seed(1)
    weight = torch.nn.Linear(1, 1)
    Loop(tmp_path, "stage", 10, {"weight": weight}, rng, generator).save()
    state = torch.load(tmp_path / "stage.pt", weights_only=False)
    torch.save(state | {"step": 7, "progress": 0.7}, tmp_path / "stage.pt")
    seen = []

    def take(step, progress):
        seen.append((step, progress))
        return torch.zeros(())

    Loop(tmp_path, "stage", 10, {"weight": weight}, rng, generator, budget_s=0.05).run(take)
    assert seen[0] == (7, 0.7)
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(seen))
    seen.clear()
    Loop(tmp_path, "stage", 10, {"weight": weight}, rng, generator).run(take)
    assert seen == []  # it is done


def test_the_learning_rate_rises_then_falls_to_its_floor():
    rates = [cosine(step, step / 1000, 1e-3, 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(1e-5)
    assert max(rates) == pytest.approx(rates[99], rel=1e-3)
    assert rates[-1] == pytest.approx(2e-5)


def test_pictures_start_from_noise_that_says_nothing_of_them():
    signal, sigma = signal_and_noise()
    assert float(signal[999]) == 0.0
    assert float(sigma[999]) == 1.0
    assert torch.equal(lcm_scheduler().alphas_cumprod.sqrt(), signal.flatten())
    t = random_timesteps(4000, torch.Generator().manual_seed(0))
    assert 0.12 < float((t == 999).float().mean()) < 0.18
    assert 0.6 < float((t >= 600).float().mean()) < 0.9


def test_guidance_embedding_equals_the_pipelines():
    w = torch.tensor([0.0, 1.0, 3.5, 7.5])
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, w, embedding_dim=256)
    torch.testing.assert_close(
        guidance_embedding(w), theirs, atol=2e-3, rtol=0
    )  # float32 sines of up to 7500


def test_boundary_scalings_equal_the_schedulers():
    scheduler = lcm_scheduler()
    for t in (0, 19, 499, 999):
        skip, out = boundary_scalings(torch.tensor([t]))
        theirs = scheduler.get_scalings_for_boundary_condition_discrete(torch.tensor(float(t)))
        assert float(skip) == pytest.approx(float(theirs[0]))
        assert float(out) == pytest.approx(float(theirs[1]))


def test_muon_takes_one_orthogonal_step_per_matrix_whatever_its_layout_in_memory():
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(32, 48, 3, bias=False)
    layers = [convolution, copy.deepcopy(convolution).to(memory_format=torch.channels_last)]
    gradient = torch.randn_like(convolution.weight)
    for layer in layers:
        layer.weight.grad = gradient.clone()
    optimiser = Pair(layers)
    optimiser.at(1e-2)
    before = convolution.weight.detach().clone()
    optimiser.step(clip=1e9)
    step = orthogonalised((gradient * (1 - 0.95 * 0.95)).flatten(1)[None])[0].float().view_as(before)
    expected = before * (1 - 1e-2 * 0.01) - step * 0.2 * math.sqrt(32 * 9) * 1e-2
    for layer in layers:
        torch.testing.assert_close(layer.weight.detach(), expected, atol=2e-4, rtol=0)


def test_training_goes_on_from_exported_weights(tmp_path):
    torch.manual_seed(0)
    first = new_teacher(SMOKE)
    ae = new_autoencoder(SMOKE)
    ae.register_to_config(scaling_factor=0.7)
    export(first, ae, tmp_path / "weights", SMOKE.size)
    (tmp_path / "run").mkdir()
    preset = replace(SMOKE, steps=1, rate=0.0, lcd_steps=1, lcd_rate=0.0)
    run = Training(preset, tmp_path / "run", start=tmp_path / "weights")
    student, kept = run.run(lambda stage, ae: lambda model, step: None)
    assert float(kept.config.scaling_factor) == 0.7
    for name, value in first.unet.state_dict().items():
        if "cond_proj" not in name:
            torch.testing.assert_close(student.unet.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    assert not (tmp_path / "run" / "autoencoder.pt").exists()


def test_training_goes_on_from_an_earlier_run_with_its_teacher_and_what_its_student_knew_beyond(tmp_path):
    """Learning rates of nothing: what comes out is what went in, of both stages."""
    torch.manual_seed(0)
    first, ae = new_teacher(SMOKE), new_autoencoder(SMOKE)
    earlier, run = tmp_path / "earlier", tmp_path / "run"
    for folder in (earlier, run):
        folder.mkdir()
    changed = copy.deepcopy(first)
    with torch.no_grad():
        for p in changed.unet.parameters():
            p += 0.01
    export(changed, ae, earlier / "weights", SMOKE.size)
    taught = [*first.unet.parameters(), *first.text_encoder.parameters()]
    for stage, values in (("teacher", taught), ("student", list(changed.unet.parameters()))):
        torch.save({"parts": {"ema": {"steps": 1, "values": values}}}, earlier / f"{stage}.pt")
    preset = replace(SMOKE, steps=1, rate=0.0, lcd_steps=1, lcd_rate=0.0)
    looks = {}

    def look(stage, ae):
        return lambda model, step: looks.update({stage: copy.deepcopy(model.unet.state_dict())})

    Training(preset, run, start=earlier).run(look)
    for stage, unet in (("teacher", first.unet), ("student", changed.unet)):
        for name, value in unet.state_dict().items():
            torch.testing.assert_close(looks[stage][name], value, atol=1e-5, rtol=1e-5, msg=f"{stage} {name}")


def test_a_blend_is_so_much_of_the_one_and_the_rest_of_the_other():
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    expected = 0.75 * one.weight + 0.25 * other.weight
    blend(one, other, 0.75)
    torch.testing.assert_close(one.weight, expected)


PERSON = Portrait("woman", "tan", "long", "black", "green", "red", "blue", expression="sad")
CIRCLE = Still((Thing("circle", "red"),), "blue")


def test_a_loss_looks_closer_at_the_eyes_and_mouths_of_portraits_only():
    person, circle = attention_to(labels_of([PERSON, CIRCLE]), 32)
    assert torch.equal(circle, torch.ones(1, 32, 32))
    assert float(person[0, 14:20, 12:20].min()) > 3.5, "eyes and mouth"
    assert float(person[0, :2].max()) < 1.1, "the ground above the head"


def test_an_error_in_a_face_counts_for_more_than_as_large_a_one_beside_it():
    torch.manual_seed(0)
    teacher = new_teacher(SMOKE)
    ids = ids_of(SMOKE, ["a woman"])
    latents = torch.zeros(1, 4, 8, 8)

    def loss(at: int, scene) -> float:
        wrong = latents.clone()
        wrong[..., at, at] = 100.0  # far more than an untrained model's own error
        labels, generator = labels_of([scene]), torch.Generator().manual_seed(1)
        with torch.no_grad():
            return float(diffusion_loss(teacher.unet, teacher.text_encoder, wrong, ids, labels, generator))

    assert loss(4, PERSON) > 2 * loss(0, PERSON)
    assert loss(4, CIRCLE) < 1.5 * loss(0, CIRCLE)


def test_orthogonalised_matrices_have_singular_values_near_one():
    matrices = torch.randn(3, 24, 60, generator=torch.Generator().manual_seed(0))
    for each in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalised(each).float())
        assert values.min() > 0.5
        assert values.max() < 1.3
