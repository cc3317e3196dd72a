"""Compare atom contributions with a property whose true contributions are known.

    python -m benchmarks.accuracy.explanation

Crippen's logP is a sum over atoms by definition. A model is trained on the sums of the ESOL
molecules. Its atom contributions on the test set are then compared with the true ones; the
contribution of a hydrogen counts for the atom that carries it. Two controls are compared in the
same way: the change of the prediction when the atom is left out, and the contributions of a model
with random weights (Adebayo et al., NeurIPS 2018). Pair contributions from gradients are compared
with hiding the views of that pair alone.

Writes `benchmarks/results/explanation.csv`. A model that is in the run folder already is not
trained again. MOLEBLEND_DATA is the folder of data sets.
"""

import csv
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from rich.console import Console

from benchmarks.results.csv_files import RESULTS
from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import read_smiles
from moleblend.data.formats import read_table
from moleblend.finetuning.train import TrainConfig, train
from moleblend.model.batch import collate
from moleblend.model.blending import Blend, show
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import Model
from moleblend.prediction.explanation import contributions
from moleblend.prediction.predictor import Predictor

FIELDS = ("method", "metric", "value", "molecules")
MIN_ATOMS = 6
"""Correlations within smaller molecules mean little."""


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        epochs: training epochs.
        molecules: largest number of test molecules.
        out: run folder.
        results: csv file to write.
    """

    epochs: int = 40
    molecules: int = 60
    out: Path = Path("runs/explanation")
    results: Path = RESULTS / "explanation.csv"


def main(options: Options) -> None:
    """Train, explain, compare, write."""
    source = Path(os.environ["MOLEBLEND_DATA"]) / "unimol_split" / "esol.csv.gz"
    smiles = [str(text) for text in read_table(source).column("smiles").to_pylist()]
    model = options.out / "run" / "model.safetensors"
    if not model.is_file():
        train_on_crippen(smiles, options)
    trained = Predictor(model, device="cpu").model
    torch.manual_seed(0)
    untrained = Model(trained.config).eval()
    sets = read_table(options.out / "run" / "rows.csv").column("set").to_pylist()
    read = [read_smiles(text) for text, name in zip(smiles, sets, strict=True) if name == "test"]
    molecules = [one for one in read if one.n_atoms >= MIN_ATOMS][: options.molecules]
    truth = [crippen_contributions(molecule) for molecule in molecules]

    started = time.perf_counter()
    ours = [contributions(trained, molecule, "2d", [0]) for molecule in molecules]
    seconds = (time.perf_counter() - started) / len(molecules)
    methods = {
        "explanation": [one.atoms[:, 0] for one in ours],
        "atom left out": [left_out(trained, molecule) for molecule in molecules],
        "random weights": [contributions(untrained, m, "2d", [0]).atoms[:, 0] for m in molecules],
    }
    sums = np.array([[one.output[0] for one in ours], [true.sum() for true in truth]])
    rmse = np.sqrt(np.mean((sums[0] - sums[1]) ** 2))
    rows = [("prediction", "RMSE", f"{rmse:.3f}", len(molecules))]
    for method, values in methods.items():
        rows += compare(method, values, truth)
    both = methods["explanation"], methods["random weights"]
    rows += compare("explanation and random weights", *both)[:3]
    upper = [np.triu_indices(molecule.n_atoms, 1) for molecule in molecules]
    gradients = [one.pairs[..., 0][pairs] for one, pairs in zip(ours, upper, strict=True)]
    hidden = [without_pairs(trained, molecule) for molecule in molecules]
    rows += compare("pairs by gradients and by hiding", gradients, hidden)[:3]
    off = [abs(np.triu(one.pairs[..., 0]).sum() - one.views.sum()) for one in ours]
    rows.append(("pairs", "largest error of their sum", f"{max(off):.1g}", len(molecules)))
    rows.append(("explanation", "seconds per molecule", f"{seconds:.2f}", len(molecules)))
    with options.results.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([FIELDS, *rows])
    for row in rows:
        print(*row)


def train_on_crippen(smiles: list[str], options: Options) -> None:
    """Train a model on Crippen's logP."""
    options.out.mkdir(parents=True, exist_ok=True)
    labelled = options.out / "crippen.csv"
    with labelled.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("smiles", "logp"))
        writer.writerows(
            (text, f"{crippen_contributions(read_smiles(text)).sum():.4f}") for text in smiles
        )
    config = TrainConfig(
        data=str(labelled),
        target=("logp",),
        out=str(options.out / "run"),
        split="random",
        views="2d",
        source="scratch",
        features=("none",),
        epochs=options.epochs,
        patience=10,
        learning_rate=5e-4,
        encoder=EncoderConfig(width=128, ffn_width=128, n_layers=4),
    )
    train(config, console=Console(quiet=True))


def crippen_contributions(molecule: Molecule) -> np.ndarray:
    """Crippen's logP contribution of each atom, its hydrogens included."""
    mol = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
    contributions = np.array(rdMolDescriptors._CalcCrippenContribs(mol))[:, 0]
    total = contributions[: molecule.n_atoms].copy()
    for atom in range(molecule.n_atoms, mol.GetNumAtoms()):
        (heavy,) = mol.GetAtomWithIdx(atom).GetNeighbors()
        total[heavy.GetIdx()] += contributions[atom]
    return total


@torch.inference_mode()
def left_out(model: Model, molecule: Molecule) -> np.ndarray:
    """Difference between the prediction and that without the atom, for each atom."""
    n = molecule.n_atoms
    batch = collate([molecule] * (n + 1))
    is_there = torch.cat([torch.ones(1, n, dtype=torch.bool), ~torch.eye(n, dtype=torch.bool)])
    batch = replace(batch, is_atom=is_there)
    return _differences(model, model(batch, show(batch, "2d")))


@torch.inference_mode()
def without_pairs(model: Model, molecule: Molecule) -> np.ndarray:
    """Difference between the prediction and that with the views of a pair hidden, per pair."""
    first, second = np.triu_indices(molecule.n_atoms, 1)
    row = np.arange(len(first)) + 1
    batch = collate([molecule] * (len(first) + 1))
    shown = show(batch, "2d")
    pairs = shown.pairs.clone()
    pairs[row, first, second] = pairs[row, second, first] = False
    return _differences(model, model(batch, Blend(pairs, shown.atoms, shown.noise)))


def _differences(model: Model, answers: torch.Tensor) -> np.ndarray:
    (target,) = model.config.targets
    return (answers[0, 0] - answers[1:, 0]).double().numpy() * target.scale


def compare(
    method: str, values: list[np.ndarray], truth: list[np.ndarray]
) -> list[tuple[str, str, str, int]]:
    """Correlation within each molecule and over all atoms, RMSE, and the truth's std."""
    varies = [k for k in range(len(truth)) if min(truth[k].std(), values[k].std()) > 1e-9]
    within = [np.corrcoef(values[k], truth[k])[0, 1] for k in varies]
    every, true = np.concatenate(values), np.concatenate(truth)
    metrics = {
        "median correlation within a molecule": np.median(within),
        "mean correlation within a molecule": np.mean(within),
        "correlation over all atoms": np.corrcoef(every, true)[0, 1],
        "RMSE": np.sqrt(np.mean((every - true) ** 2)),
        "standard deviation of the true contributions": true.std(),
    }
    return [(method, name, f"{value:.3f}", len(varies)) for name, value in metrics.items()]


if __name__ == "__main__":
    main(tyro.cli(Options))
