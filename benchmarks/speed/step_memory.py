"""A pretraining step of the package or of the naive implementation, and its peak memory.

`python -m benchmarks.speed.step_memory CONFIG IMPLEMENTATION TASK FILE LIMIT` runs on the batches
of FILE and prints the peak memory of this process in MB. It fails at a limit of LIMIT MB.
It imports torch and the model, but no molecule reader.
"""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.speed import naive_model
from moleblend.model.batch import Batch
from moleblend.model.blending import BlendConfig, ShownViews, draw_blend, show
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.model.objectives import ObjectiveConfig, blend_then_predict

SMALL = {"width": 256, "ffn_width": 256, "n_layers": 6, "n_heads": 8, "n_kernels": 64}
CONFIGS = {
    "small": ModelConfig(encoder=EncoderConfig.published(**SMALL), heads=HeadsConfig.published()),
    "small, default": ModelConfig(encoder=EncoderConfig(**SMALL)),
    "base": ModelConfig(encoder=EncoderConfig.published(), heads=HeadsConfig.published()),
}
"""Sizes of the published measurements; `small, default` is the package's default model."""

_TENSORS = [field.name for field in fields(Batch) if field.name != "descriptors"]
IMPLEMENTATIONS = {"package": blend_then_predict, "naive": naive_model.blend_then_predict}


class Step:
    """One optimiser step of a configuration."""

    def __init__(self, name: str, implementation: str) -> None:
        torch.manual_seed(0)
        self.compute = IMPLEMENTATIONS[implementation]
        self.model = Model(CONFIGS[name]).train()
        self.objective = ObjectiveConfig()
        self.blend = BlendConfig()
        if CONFIGS[name].encoder.features == "ogb-1":
            self.objective = ObjectiveConfig.published()
            self.blend = BlendConfig(draw="batch", unblended=(0.0, 0.0))
        self.generator = torch.Generator().manual_seed(0)
        # Without weight decay AdamW is Adam.
        is_fused = implementation == "package"
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=1e-5, weight_decay=0.0, fused=is_fused
        )

    def run(self, batch: Batch) -> None:
        """Draw a blend, predict, and update the weights."""
        # Before the forward pass, so that old gradients and activations are not in memory together.
        self.optimiser.zero_grad()
        blend = draw_blend(batch, self.blend, self.generator)
        loss = self.compute(self.model, batch, blend, self.objective)
        loss.total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()


def embedding(model: Model, implementation: str, views: ShownViews) -> Callable[[Batch], object]:
    """Return a function that embeds a batch."""
    if implementation == "package":
        return lambda batch: model.embed(batch, show(batch, views))
    return lambda batch: naive_model.encode(model.encoder, batch, show(batch, views))


def peak_mb(
    name: str, batches: list[Batch], implementation: str, task: str = "step", limit_mb: int = 16_384
) -> int:
    """Peak memory in MB of a fresh process that does the steps, or embeds in 2D and 3D.

    Raises:
        subprocess.CalledProcessError: the process failed, for example at the memory limit.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "batches.safetensors"
        tensors = {
            f"{k} {name}": getattr(batch, name).contiguous()
            for k, batch in enumerate(batches)
            for name in _TENSORS
        }
        save_file(tensors, file)
        arguments = [name, implementation, task, str(file), str(limit_mb)]
        command = [sys.executable, "-m", "benchmarks.speed.step_memory", *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def main(name: str, implementation: str, task: str, file: str, limit_mb: str) -> None:
    """Do the steps, or embed, and print the peak memory."""
    limit = int(limit_mb) * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    tensors = load_file(file)
    batches = [
        Batch(**{name: tensors[f"{k} {name}"] for name in _TENSORS})
        for k in range(len(tensors) // len(_TENSORS))
    ]
    if task == "step":
        step = Step(name, implementation)
        for batch in batches:
            step.run(batch)
    else:
        embed = embedding(Model(CONFIGS[name]).eval(), implementation, "both")
        with torch.inference_mode():
            for batch in batches:
                embed(batch)
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM"))
    print(round(int(line.split()[1]) / 1024))


if __name__ == "__main__":
    main(*sys.argv[1:])
