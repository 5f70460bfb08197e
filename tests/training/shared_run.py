"""A training run that processes share: the script of test_distributed.py.

python shared_run.py OUT BATCH_SIZE
python -m torch.distributed.run --nproc-per-node 2 shared_run.py OUT BATCH_SIZE
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed
from accelerate import PartialState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_robust.training import ATEXTrainer, GradientPenalty, Trainer


def main(out: Path, batch_size: int) -> None:
    """Train, evaluate, and write what came out; the naive solution must refuse."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    inputs = torch.rand(48, 6, generator=torch.Generator().manual_seed(1)).double()
    data = TensorDataset(inputs, torch.arange(48) % 3)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)
    trainer = ATEXTrainer(network, delta1=0.3, delta2=0.3, n_perpendicular=2, steps_per_batch=2)
    validation = DataLoader(data, batch_size=10)
    trainer.fit(loader, 3, validation=validation, checkpoints=out / "run", show_progress=False)
    state = PartialState()
    refused = ""
    if state.num_processes > 1:
        assert next(trainer.model.parameters()).grad is None
        try:
            Trainer(network, GradientPenalty(0.1)).fit(loader, 1, show_progress=False)
        except ValueError as error:
            refused = str(error)
    if state.is_main_process:
        result = {"weights": trainer.weights(), "history": trainer.history, "refused": refused}
        torch.save(result, out / "result")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
