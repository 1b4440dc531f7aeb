"""The whole recipe at a hundredth of its size: it learns, it exports, diffusers loads what it wrote."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline

from engines.embedded.diffusion import lcm_scheduler
from engines.embedded.distill import boundary_scalings, guidance_embedding
from engines.embedded.optimiser import orthogonalised
from engines.embedded.presets import SMOKE
from engines.embedded.training import train_autoencoder


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


def test_a_stopped_stage_continues_to_the_same_weights(tmp_path):
    short = replace(SMOKE, ae_steps=6)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = train_autoencoder(short, tmp_path / "whole").state_dict()

    from engines.embedded import loop

    class Interrupted(Exception):
        pass

    saved = loop.Loop.run

    def run_three(self, take, look=None):
        for _ in range(3):
            take(self.step)
            self.step += 1
        self.save()
        raise Interrupted

    loop.Loop.run = run_three
    try:
        with pytest.raises(Interrupted):
            train_autoencoder(short, tmp_path / "parts")
    finally:
        loop.Loop.run = saved
    resumed = train_autoencoder(short, tmp_path / "parts").state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, msg=name)


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


def test_orthogonalised_matrices_have_singular_values_near_one():
    matrices = torch.randn(3, 24, 60, generator=torch.Generator().manual_seed(0))
    for each in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalised(each).float())
        assert values.min() > 0.5
        assert values.max() < 1.3
