"""The model that ships with the repository: a tiny latent consistency model of procedural pictures.

This module imports nothing heavy, so that a server can ask where the weights are without loading torch.
Training, evaluation and export: ``python -m engines.embedded --help``.
"""

from pathlib import Path

__all__ = ["WEIGHTS"]

WEIGHTS: Path = Path(__file__).resolve().parent / "weights"
"""Folder in the layout of ``diffusers.LatentConsistencyModelPipeline.save_pretrained``."""
