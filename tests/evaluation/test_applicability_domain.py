import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moleblend.chem.fingerprints import count_ecfp4, nearest
from moleblend.config import from_dict, to_dict
from moleblend.evaluation.applicability_domain import (
    IN_DOMAIN,
    OUT_OF_DOMAIN,
    ApplicabilityDomain,
    Thresholds,
)

TRAIN = ["CCO", "CCCO", "CCCCO", "CCCCCO", "CCN", "CCCN", "CCCCN"]
ROWS = np.array([0, 2, 3, 5, 6, 8, 9])
VALIDATION = ["CC(C)O", "CCCCCCO", "CCCCCN", "CC(C)N"]


def vectors(smiles: list[str]) -> np.ndarray:
    return np.stack([count_ecfp4(text, 64) for text in smiles]).astype(np.float32)


@pytest.fixture(scope="module")
def domain() -> ApplicabilityDomain:
    return ApplicabilityDomain.fit(vectors(TRAIN), TRAIN, ROWS, vectors(VALIDATION), VALIDATION)


def test_similar_molecules_are_in_domain_and_others_are_not(domain: ApplicabilityDomain) -> None:
    queries = ["CCCO", "c1ccc2c(c1)[nH]c1ccccc12"]
    scores = domain.score(vectors(queries), queries)
    assert scores.category[0] == IN_DOMAIN
    assert scores.category[1] == OUT_OF_DOMAIN
    assert scores.distance[0] < scores.distance[1]
    assert (scores.row[0], scores.smiles[0], scores.similarity[0]) == (2, "CCCO", 1.0)


def test_distance_and_similarity_equal_those_computed_by_hand(domain: ApplicabilityDomain) -> None:
    queries = ["CCCCCCN", "OCCO"]
    scores = domain.score(vectors(queries), queries)
    similarity, place = nearest(queries, TRAIN)
    assert scores.similarity == pytest.approx(similarity)
    assert scores.row.tolist() == ROWS[place].tolist()

    def distance(smiles: list[str]) -> np.ndarray:
        apart = np.linalg.norm(vectors(smiles)[:, None] - vectors(TRAIN)[None], axis=2)
        return np.sort(apart, 1)[:, :5].mean(1)

    known = distance(VALIDATION)
    wanted = (distance(queries) - known.mean()) / known.std()
    assert scores.distance == pytest.approx(wanted, abs=1e-5)


def test_most_validation_molecules_are_in_domain() -> None:
    """The thresholds are quantiles: at most 20 % are beyond the first, 2 % beyond the second."""
    rng = np.random.default_rng(0)
    train = [f"C(C)CCO{'C' * k}N{'C' * j}" for k in range(1, 8) for j in range(1, 8)]
    queries = [f"CCCO{'C' * k}N{'C' * j}O" for k in range(1, 16) for j in range(1, 15)]
    domain = ApplicabilityDomain.fit(
        rng.normal(size=(len(train), 4)),
        train,
        np.arange(len(train)),
        (embeddings := rng.normal(size=(len(queries), 4))),
        queries,
    )
    categories = domain.score(embeddings, queries).category
    assert 20 <= sum(category != IN_DOMAIN for category in categories) <= 42
    assert 2 <= categories.count(OUT_OF_DOMAIN) <= 5


def test_distance_or_similarity_alone_can_be_out_of_domain(domain: ApplicabilityDomain) -> None:
    far, near = vectors(["CCO"]) + 50, vectors(["CCO"])
    assert domain.score(far, ["CCO"]).category == [OUT_OF_DOMAIN]
    assert domain.score(near, ["c1ccc2c(c1)[nH]c1ccccc12"]).category == [OUT_OF_DOMAIN]


def test_rows_that_are_not_molecules_have_empty_scores(domain: ApplicabilityDomain) -> None:
    embeddings = vectors(["CCO", "CCO"])
    embeddings[0] = np.nan
    scores = domain.score(embeddings, ["not read", "CCO"])
    assert scores.category[0] == scores.smiles[0] == ""
    assert scores.row.tolist() == [-1, 0]
    assert np.isnan(scores.distance).tolist() == [True, False]
    unknown = domain.score(embeddings[:1], [""])
    assert (unknown.category, unknown.row.tolist()) == ([""], [-1])


@pytest.mark.parametrize("keep_smiles", [True, False])
def test_a_domain_is_read_from_its_file(tmp_path: Path, *, keep_smiles: bool) -> None:
    kept = ApplicabilityDomain.fit(
        vectors(TRAIN), TRAIN, ROWS, vectors(VALIDATION), VALIDATION, keep_smiles=keep_smiles
    )
    save_file(kept.tensors(), tmp_path / "domain.safetensors")
    thresholds = from_dict(Thresholds, json.loads(json.dumps(to_dict(kept.thresholds))), "header")
    read = ApplicabilityDomain.from_tensors(load_file(tmp_path / "domain.safetensors"), thresholds)
    queries = ["CCCCCCN", "OCCO"]
    before, after = kept.score(vectors(queries), queries), read.score(vectors(queries), queries)
    assert (after.category, after.smiles) == (before.category, before.smiles)
    assert after.row.tolist() == before.row.tolist()
    assert after.distance.tolist() == before.distance.tolist()
    text = (tmp_path / "domain.safetensors").read_bytes()
    assert (b"CCCCN" in text) is keep_smiles
    assert (after.smiles == ["", ""]) is not keep_smiles


def test_invalid_arguments_and_files_are_refused(domain: ApplicabilityDomain) -> None:
    with pytest.raises(ValueError, match="2 validation molecules, got 7 and 1"):
        ApplicabilityDomain.fit(vectors(TRAIN), TRAIN, ROWS, vectors(["CO"]), ["CO"])
    with pytest.raises(ValueError, match="too large for half precision"):
        ApplicabilityDomain.fit(1e6 * vectors(TRAIN), TRAIN, ROWS, vectors(VALIDATION), VALIDATION)
    tensors = domain.tensors()
    with pytest.raises(ValueError, match="7 fingerprints, 7 SMILES and 6 rows"):
        ApplicabilityDomain.from_tensors({**tensors, "domain.rows": ROWS[:6]}, domain.thresholds)
    del tensors["domain.rows"]
    with pytest.raises(ValueError, match=r"lacks domain\.rows"):
        ApplicabilityDomain.from_tensors(tensors, domain.thresholds)
