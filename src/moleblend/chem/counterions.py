"""Counter-ions of drugs: fragments that are removed before the largest one is chosen."""

from functools import cache

from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize

COUNTERIONS = {
    # acids
    "acetic acid": "CC(=O)O",
    "formic acid": "OC=O",
    "trifluoroacetic acid": "OC(=O)C(F)(F)F",
    "methanesulfonic acid": "CS(=O)(=O)O",
    "ethanesulfonic acid": "CCS(=O)(=O)O",
    "trifluoromethanesulfonic acid": "OS(=O)(=O)C(F)(F)F",
    "isethionic acid": "OCCS(=O)(=O)O",
    "ethanedisulfonic acid": "OS(=O)(=O)CCS(=O)(=O)O",
    "benzenesulfonic acid": "OS(=O)(=O)c1ccccc1",
    "toluenesulfonic acid": "Cc1ccc(cc1)S(=O)(=O)O",
    "naphthalene-2-sulfonic acid": "OS(=O)(=O)c1ccc2ccccc2c1",
    "naphthalene-1,5-disulfonic acid": "OS(=O)(=O)c1cccc2c1cccc2S(=O)(=O)O",
    "camphorsulfonic acid": "CC1(C)C2CCC1(CS(=O)(=O)O)C(=O)C2",
    "dodecyl sulfuric acid": "CCCCCCCCCCCCOS(=O)(=O)O",
    "methyl sulfuric acid": "COS(=O)(=O)O",
    "oxalic acid": "OC(=O)C(=O)O",
    "malonic acid": "OC(=O)CC(=O)O",
    "succinic acid": "OC(=O)CCC(=O)O",
    "glutaric acid": "OC(=O)CCCC(=O)O",
    "adipic acid": "OC(=O)CCCCC(=O)O",
    "fumaric or maleic acid": "OC(=O)C=CC(=O)O",
    "malic acid": "OC(CC(=O)O)C(=O)O",
    "tartaric acid": "OC(C(O)C(=O)O)C(=O)O",
    "citric acid": "OC(=O)CC(O)(CC(=O)O)C(=O)O",
    "lactic acid": "CC(O)C(=O)O",
    "glycolic acid": "OCC(=O)O",
    "gluconic acid": "OCC(O)C(O)C(O)C(O)C(=O)O",
    "glucuronic acid": "O=CC(O)C(O)C(O)C(O)C(=O)O",
    "lactobionic acid": "OCC1OC(OC(C(O)CO)C(O)C(O)C(=O)O)C(O)C(O)C1O",
    "mandelic acid": "OC(C(=O)O)c1ccccc1",
    "benzoic acid": "OC(=O)c1ccccc1",
    "salicylic acid": "OC(=O)c1ccccc1O",
    "gentisic acid": "OC(=O)c1cc(O)ccc1O",
    "pamoic acid": "OC(=O)c1cc2ccccc2c(Cc2c(O)c(cc3ccccc23)C(=O)O)c1O",
    "xinafoic acid": "OC(=O)c1ccc2ccccc2c1O",
    "saccharin": "O=C1NS(=O)(=O)c2ccccc12",
    "stearic acid": "CCCCCCCCCCCCCCCCCC(=O)O",
    "palmitic acid": "CCCCCCCCCCCCCCCC(=O)O",
    "picric acid": "Oc1c(cc(cc1[N+](=O)[O-])[N+](=O)[O-])[N+](=O)[O-]",
    "tetraphenylborate": "c1ccc(cc1)[B-](c1ccccc1)(c1ccccc1)c1ccccc1",
    # bases
    "meglumine": "CNCC(O)C(O)C(O)C(O)CO",
    "trometamol": "NC(CO)(CO)CO",
    "ethanolamine": "NCCO",
    "diethanolamine": "OCCNCCO",
    "triethanolamine": "OCCN(CCO)CCO",
    "choline": "C[N+](C)(C)CCO",
    "ethylenediamine": "NCCN",
    "diethylamine": "CCNCC",
    "triethylamine": "CCN(CC)CC",
    "diisopropylethylamine": "CCN(C(C)C)C(C)C",
    "tert-butylamine": "CC(C)(C)N",
    "cyclohexylamine": "NC1CCCCC1",
    "dicyclohexylamine": "C1CCC(CC1)NC1CCCCC1",
    "piperazine": "C1CNCCN1",
    "morpholine": "C1COCCN1",
    "pyridine": "c1ccncc1",
    "benzathine": "C(CNCc1ccccc1)NCc1ccccc1",
    "lysine": "NCCCCC(N)C(=O)O",
    "arginine": "NC(CCCNC(N)=N)C(=O)O",
    "tetramethylammonium": "C[N+](C)(C)C",
    "tetraethylammonium": "CC[N+](CC)(CC)CC",
    "tetrabutylammonium": "CCCC[N+](CCCC)(CCCC)CCCC",
    "benzyltrimethylammonium": "C[N+](C)(C)Cc1ccccc1",
    "tetraphenylphosphonium": "c1ccc(cc1)[P+](c1ccccc1)(c1ccccc1)c1ccccc1",
}
"""Name and SMILES, without stereo and with hydrogens in place of charges.

Reference:
    Acids and bases of pharmaceutical salts as listed by Stahl and Wermuth, Handbook of
    Pharmaceutical Salts, 2nd edition, 2011; lipophilic ions of preparative chemistry.
"""


def is_counterion(fragment: Chem.Mol) -> bool:
    """Tell whether a fragment is a known counter-ion, in whatever state of protonation."""
    return _key(fragment) in _keys()


@cache
def _keys() -> frozenset[str]:
    return frozenset(_key(Chem.MolFromSmiles(smiles)) for smiles in COUNTERIONS.values())


def _key(fragment: Chem.Mol) -> str:
    """Canonical SMILES without stereo and without charges that hydrogens can remove."""
    neutral = rdMolStandardize.Uncharger().uncharge(fragment)
    return Chem.MolToSmiles(neutral, isomericSmiles=False)
