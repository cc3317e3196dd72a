import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moleblend.chem.fingerprints import count_ecfp4, nearest
from moleblend.config import from_dict, to_dict
from moleblend.evaluation.applicability_domain import LIKE, UNLIKE, ApplicabilityDomain, Thresholds

TRAIN = ["CCO", "CCCO", "CCCCO", "CCCCCO", "CCN", "CCCN", "CCCCN"]
ROWS = np.array([0, 2, 3, 5, 6, 8, 9])
VALIDATION = ["CC(C)O", "CCCCCCO", "CCCCCN", "CC(C)N"]


def vectors(smiles: list[str]) -> np.ndarray:
    return np.stack([count_ecfp4(text, 64) for text in smiles]).astype(np.float32)


@pytest.fixture(scope="module")
def domain() -> ApplicabilityDomain:
    return ApplicabilityDomain.fit(vectors(TRAIN), TRAIN, ROWS, vectors(VALIDATION), VALIDATION)


def test_words_for_near_and_far(domain: ApplicabilityDomain) -> None:
    asked = ["CCCO", "c1ccc2c(c1)[nH]c1ccccc12"]
    found = domain.score(vectors(asked), asked)
    assert found.words[0] == LIKE
    assert found.words[1] == UNLIKE
    assert found.distance[0] < found.distance[1]
    assert (found.row[0], found.smiles[0], found.similarity[0]) == (2, "CCCO", 1.0)


def test_distance_and_similarity_are_those_by_hand(domain: ApplicabilityDomain) -> None:
    asked = ["CCCCCCN", "OCCO"]
    found = domain.score(vectors(asked), asked)
    similarity, place = nearest(asked, TRAIN)
    assert found.similarity == pytest.approx(similarity)
    assert found.row.tolist() == ROWS[place].tolist()

    def distance(smiles: list[str]) -> np.ndarray:
        apart = np.linalg.norm(vectors(smiles)[:, None] - vectors(TRAIN)[None], axis=2)
        return np.sort(apart, 1)[:, :5].mean(1)

    known = distance(VALIDATION)
    wanted = (distance(asked) - known.mean()) / known.std()
    assert found.distance == pytest.approx(wanted, abs=1e-5)


def test_validation_molecules_are_mostly_like_the_training_set() -> None:
    """The thresholds are quantiles: at most 20 % are beyond the first, 2 % beyond the second."""
    rng = np.random.default_rng(0)
    train = [f"C(C)CCO{'C' * k}N{'C' * j}" for k in range(1, 8) for j in range(1, 8)]
    asked = [f"CCCO{'C' * k}N{'C' * j}O" for k in range(1, 16) for j in range(1, 15)]
    known = ApplicabilityDomain.fit(
        rng.normal(size=(len(train), 4)),
        train,
        np.arange(len(train)),
        (given := rng.normal(size=(len(asked), 4))),
        asked,
    )
    words = known.score(given, asked).words
    assert 20 <= sum(word != LIKE for word in words) <= 42
    assert 2 <= words.count(UNLIKE) <= 5


def test_either_measure_alone_can_warn(domain: ApplicabilityDomain) -> None:
    far, score = vectors(["CCO"]) + 50, vectors(["CCO"])
    assert domain.score(far, ["CCO"]).words == [UNLIKE]
    assert domain.score(score, ["c1ccc2c(c1)[nH]c1ccccc12"]).words == [UNLIKE]


def test_rows_that_are_no_molecule_stay_empty(domain: ApplicabilityDomain) -> None:
    given = vectors(["CCO", "CCO"])
    given[0] = np.nan
    found = domain.score(given, ["not read", "CCO"])
    assert found.words[0] == found.smiles[0] == ""
    assert found.row.tolist() == [-1, 0]
    assert np.isnan(found.distance).tolist() == [True, False]
    nothing = domain.score(given[:1], [""])
    assert (nothing.words, nothing.row.tolist()) == ([""], [-1])


@pytest.mark.parametrize("keep_smiles", [True, False])
def test_it_comes_back_from_a_file(tmp_path: Path, *, keep_smiles: bool) -> None:
    kept = ApplicabilityDomain.fit(
        vectors(TRAIN), TRAIN, ROWS, vectors(VALIDATION), VALIDATION, keep_smiles=keep_smiles
    )
    save_file(kept.tensors(), tmp_path / "domain.safetensors")
    thresholds = from_dict(Thresholds, json.loads(json.dumps(to_dict(kept.thresholds))), "header")
    read = ApplicabilityDomain.from_tensors(load_file(tmp_path / "domain.safetensors"), thresholds)
    asked = ["CCCCCCN", "OCCO"]
    before, after = kept.score(vectors(asked), asked), read.score(vectors(asked), asked)
    assert (after.words, after.smiles) == (before.words, before.smiles)
    assert after.row.tolist() == before.row.tolist()
    assert after.distance.tolist() == before.distance.tolist()
    text = (tmp_path / "domain.safetensors").read_bytes()
    assert (b"CCCCN" in text) is keep_smiles
    assert (after.smiles == ["", ""]) is not keep_smiles


def test_what_does_not_fit_is_refused(domain: ApplicabilityDomain) -> None:
    with pytest.raises(ValueError, match="two validation molecules are needed, 7 and 1 came"):
        ApplicabilityDomain.fit(vectors(TRAIN), TRAIN, ROWS, vectors(["CO"]), ["CO"])
    with pytest.raises(ValueError, match="too large for half precision"):
        ApplicabilityDomain.fit(1e6 * vectors(TRAIN), TRAIN, ROWS, vectors(VALIDATION), VALIDATION)
    tensors = domain.tensors()
    with pytest.raises(ValueError, match="7 fingerprints, 7 SMILES and 6 rows"):
        ApplicabilityDomain.from_tensors({**tensors, "domain.rows": ROWS[:6]}, domain.thresholds)
    del tensors["domain.rows"]
    with pytest.raises(ValueError, match=r"lacks domain\.rows"):
        ApplicabilityDomain.from_tensors(tensors, domain.thresholds)
