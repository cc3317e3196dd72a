"""What is known of the data sets: where each is published, what it holds, its licence."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from moleblend.data.datasets.converters import QM9_UNITS

Kind = Literal["table", "pcqm4mv2", "sdf", "conformers"]
"""A table is read whole; PCQM4Mv2's zip, its SDF and sets of many conformers are streamed."""


@dataclass(frozen=True)
class Source:
    """A published file.

    Attributes:
        url: its address; `pypi:NAME==VERSION` for the wheel of a package.
        hash: of the file as published, "sha256:..." or "md5:..."; None where none is known.
    """

    url: str
    hash: str | None = None

    @property
    def name(self) -> str:
        """The name under which the file is kept."""
        if self.url.startswith("pypi:"):
            return self.url.removeprefix("pypi:").replace("==", "-") + "-py3-none-any.whl"
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Counts:
    """What a set holds, counted over all rows of the file.

    Attributes:
        rows: how many there are.
        labels: cells with a label.
        positives: those that are 1, where labels are classes.
        parsed: rows that were read as molecules; of a large set, every so many-th.
        valid: those of them that are molecules.
        largest: heavy atoms of the largest.
        repeated: rows whose molecule an earlier row has, by canonical SMILES.
        contradicting: molecules whose rows contradict each other in a label: another class, or
            numbers more than 0.5 apart.
        padded: SMILES with blanks around them.
        fails: rows with the word FAIL for a SMILES.
        blank_lines: rows after which an empty line stands.
    """

    rows: int
    labels: int = 0
    positives: int = 0
    parsed: int = 0
    valid: int = 0
    largest: int = 0
    repeated: int = 0
    contradicting: int = 0
    padded: int = 0
    fails: int = 0
    blank_lines: int = 0


@dataclass(frozen=True)
class Dataset:
    """One data set.

    Attributes:
        title: what it is.
        file: where `fetch` puts it, below the data folder.
        sources: the published files it is made from.
        columns: of the file.
        split: the protocol.
        licence: of the data.
        citation: whom to cite.
        kind: how it is read.
        task: what is learnt from it; None for pretraining.
        metric: figure of merit in the literature.
        tasks: columns with the labels; if empty, all columns but the SMILES and `split`.
        n_tasks: how many they are.
        units: of the labels, by column, where they have one.
        smiles: the SMILES column.
        content: SHA-256 by `content_sha256` of the file that is known to be right.
        also: other places below the data folder where the file is looked for.
        literature: molecules, as the literature counts them.
        expected: what the file with `content` holds; as far as RDKit decides, RDKit 2026.9.1.
        note: what one must know before using it.
        differs: why the published file may have another content than `content`.
    """

    title: str
    file: str
    sources: tuple[Source, ...]
    columns: str
    split: str
    licence: str
    citation: str
    kind: Kind = "table"
    task: Literal["classification", "regression"] | None = None
    metric: str = ""
    tasks: tuple[str, ...] = ()
    n_tasks: int = 0
    units: dict[str, str] | None = None
    smiles: str = "smiles"
    content: str | None = None
    also: tuple[str, ...] = ()
    literature: int | None = None
    expected: Counts | None = None
    note: str = ""
    differs: str = ""

    @property
    def classes(self) -> bool:
        """Whether the labels are 0 and 1."""
        return self.task == "classification"

    @property
    def is_as_published(self) -> bool:
        """Whether the file is the published one, and not made from others."""
        return len(self.sources) == 1 and self.sources[0].name == Path(self.file).name

    def task_names(self, columns: list[str]) -> tuple[str, ...]:
        """Name the labels among the columns of the file."""
        if self.n_tasks == 0:
            return ()
        others = (self.smiles, "split")
        return self.tasks or tuple(name for name in columns if name not in others)


_DEEPCHEM = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets"
_MUBEN = "https://github.com/Yinghao-Li/MUBen/raw/f0ec556/data/files"
_OGB = "http://ogb-data.stanford.edu/data/lsc"

_MOLECULENET = "Wu et al., Chem. Sci. 2018, doi:10.1039/C7SC02664A"
_OWN_SPLIT = "none in the file; `train` splits by scaffold, 80/10/10 (protocol H)"
_NO_LICENCE = "none stated with the data"
_PUBLIC = "data of US agencies, in the public domain"


def _raw(title: str, name: str, citation: str, **rest: Any) -> Dataset:  # noqa: ANN401 (the fields of a data set)
    """Describe a raw file of MoleculeNet, as DeepChem distributes it."""
    told: dict[str, Any] = {
        "sources": (Source(f"{_DEEPCHEM}/{name}"),),
        "also": () if name.endswith(".gz") else (f"moleculenet/{name}.gz",),
        "split": _OWN_SPLIT,
        "licence": _NO_LICENCE,
        "task": "classification",
        "metric": "ROC-AUC, mean over tasks",
        "n_tasks": 1,
        **rest,
    }
    citation = f"{citation}; {_MOLECULENET}" if citation else _MOLECULENET
    return Dataset(title=title, file=f"moleculenet/{name}", citation=citation, **told)


_RAW = {
    "bbbp": _raw(
        "blood-brain barrier penetration",
        "BBBP.csv",
        "Martins et al., J. Chem. Inf. Model. 2012, doi:10.1021/ci300124c",
        columns="num, name, p_np, smiles",
        tasks=("p_np",),
        content="d07a38487aeac5cee5508413e468043ef3097451d2a112701c2d60be9ec6b662",
        literature=2_039,
        note="`num` is not the row; counter-ions such as a bare [Cl] are radicals, as written",
    ),
    "tox21": _raw(
        "12 nuclear-receptor and stress-response assays",
        "tox21.csv.gz",
        "Tox21 Data Challenge 2014",
        columns="12 assays, mol_id, smiles",
        tasks=(
            "NR-AR",
            "NR-AR-LBD",
            "NR-AhR",
            "NR-Aromatase",
            "NR-ER",
            "NR-ER-LBD",
            "NR-PPAR-gamma",
            "SR-ARE",
            "SR-ATAD5",
            "SR-HSE",
            "SR-MMP",
            "SR-p53",
        ),
        n_tasks=12,
        licence=_PUBLIC,
        content="7d7e7facd853a63e79ddce4e9c3fcb7a0d83a1c300b603031c0f2c64fbe77761",
        literature=7_831,
        note="what RDKit refuses are aluminium compounds with explicit AlH3; older releases take "
        "most of them",
    ),
    "toxcast": _raw(
        "617 in-vitro assays",
        "toxcast_data.csv.gz",
        "Richard et al., Chem. Res. Toxicol. 2016, doi:10.1021/acs.chemrestox.6b00135",
        columns="smiles, 617 assays",
        n_tasks=617,
        licence=_PUBLIC,
        content="666d36476ff8f3208a618409022c1cc8cc7cd136e39b300320745509e0377db6",
        literature=8_576,
        note="71 % of the labels are missing, and in small parts some tasks have one class only",
    ),
    "sider": _raw(
        "side effects in 27 classes of organs",
        "sider.csv.gz",
        "Kuhn et al., Nucleic Acids Res. 2016, doi:10.1093/nar/gkv1075",
        columns="smiles, 27 classes",
        n_tasks=27,
        licence="CC BY-NC-SA 4.0: not for commercial use",
        content="71efc6ac4ca82d6545bc512509863281be0f17234afd7adaf71a71899988302e",
        literature=1_427,
        note="a model of atom pairs needs a limit on atoms",
    ),
    "clintox": _raw(
        "approval by the FDA and toxicity in clinical trials",
        "clintox.csv.gz",
        "Gayvert et al., Cell Chem. Biol. 2016, doi:10.1016/j.chembiol.2016.07.023",
        columns="smiles, FDA_APPROVED, CT_TOX",
        tasks=("FDA_APPROVED", "CT_TOX"),
        n_tasks=2,
        content="9999816e760dd838358b5d88e81cea2fc062be4458ffa412ceecdba4f88a67b6",
        literature=1_478,
        note="the two tasks are nearly each other's complement; many rows differ in protonation",
    ),
    "muv": _raw(
        "17 screens of PubChem",
        "muv.csv.gz",
        "Rohrer and Baumann, J. Chem. Inf. Model. 2009, doi:10.1021/ci8002649",
        columns="17 screens, mol_id, smiles",
        tasks=tuple(
            f"MUV-{number}"
            for number in [
                466,
                548,
                600,
                644,
                652,
                689,
                692,
                712,
                713,
                733,
                737,
                810,
                832,
                846,
                852,
                858,
                859,
            ]
        ),
        n_tasks=17,
        licence="data of PubChem",
        content="ed7a1fa1cbdaa220e2d2804240128d02029443ba117fc1dbfb8d771db8c3e2a4",
        literature=93_087,
        note="0.2 % of the labels are positive, and in small parts some tasks have none",
        differs="it was rebuilt from DeepChem's repository; SMILES, labels and order are those of "
        "the published file, some `mol_id` or their format are not",
    ),
    "hiv": _raw(
        "inhibition of the replication of HIV",
        "HIV.csv",
        "AIDS antiviral screen of the Developmental Therapeutics Program, NCI",
        columns="smiles, activity, HIV_active",
        tasks=("HIV_active",),
        licence=_PUBLIC,
        content="9ffa7fe57dc86c342627ee1d5255e937e2ab812393c73c4d16c697022f6e1d22",
        literature=41_127,
        note="`activity` is the label in words, never an input",
    ),
    "bace": _raw(
        "inhibition of beta-secretase 1",
        "bace.csv",
        "Subramanian et al., J. Chem. Inf. Model. 2016, doi:10.1021/acs.jcim.6b00290",
        columns="mol, CID, Class, Model, pIC50, 590 descriptors",
        tasks=("Class",),
        smiles="mol",
        content="f3fb9ce90bada3e2bd6148b0df13f8f8145a357bf87df0dd5b391ede974fc737",
        literature=1_513,
        note="`Model` is its authors' split, and the descriptors may leak the label",
    ),
    "esol": _raw(
        "solubility in water",
        "delaney-processed.csv",
        "Delaney, J. Chem. Inf. Comput. Sci. 2004, doi:10.1021/ci034243x",
        columns="10 columns, the last is smiles",
        task="regression",
        metric="RMSE",
        tasks=("measured log solubility in mols per litre",),
        units={"measured log solubility in mols per litre": "log mol/L"},
        content="8c06a76f0c6487d29ab0f903e6a7a7139f189ab3c1178f159c8be8964602f189",
        literature=1_128,
        note="`ESOL predicted ...` is what a model says, never an input",
    ),
    "freesolv": _raw(
        "free energy of hydration",
        "SAMPL.csv",
        "Mobley and Guthrie, J. Comput. Aided Mol. Des. 2014, doi:10.1007/s10822-014-9747-x",
        columns="iupac, smiles, expt, calc",
        task="regression",
        metric="RMSE",
        tasks=("expt",),
        units={"expt": "kcal/mol"},
        licence="CC BY-NC-SA 4.0: not for commercial use",
        content="ab5895d914ee87cb563bd7b9611e869527bba45bec6b014d34dc495a0f9dcb72",
        literature=642,
        note="`calc` is a simulation, never an input; 63 scaffolds only, so parts are coarse",
    ),
    "lipo": _raw(
        "octanol/water distribution at pH 7.4",
        "Lipophilicity.csv",
        "AstraZeneca's deposit in ChEMBL, CHEMBL3301361",
        columns="CMPD_CHEMBLID, exp, smiles",
        task="regression",
        metric="RMSE",
        tasks=("exp",),
        units={"exp": "logD"},
        licence="CC BY-SA 3.0 (ChEMBL)",
        content="aed41590cb30609d51d8e08ad3ff06495a76e80e211358801f596b10da69bacd",
        literature=4_200,
    ),
}

_U_SIZES = {
    "bbbp": (1631, 204, 204),
    "tox21": (6264, 783, 784),
    "toxcast": (6863, 858, 858),
    "sider": (1141, 143, 143),
    "clintox": (1182, 148, 148),
    "muv": (74469, 9309, 9309),
    "hiv": (32901, 4113, 4113),
    "bace": (1210, 151, 152),
    "esol": (902, 113, 113),
    "freesolv": (513, 64, 65),
    "lipo": (3360, 420, 420),
}
"""Rows of train, valid and test."""

ON_PROTOCOL_U = tuple(sorted(_U_SIZES))
"""The sets of MoleculeNet that are here raw, and as NAME-u on protocol U."""

_U_CONTENT = {
    "bbbp": "21619ae1366bc037d4836379795c65c2481290e85b12225767447479e0423659",
    "tox21": "fd074a93803ca7243c82aaad55588624a239d3551336f85e1f564b09d158d61d",
    "toxcast": "2d77770bfd5fc03990e9b48c372bf80f08329dd10cce83017b0c34e29ed6868f",
    "sider": "afb702cbb89df4623477979b6f04aa032371cd0f315226dd38b5dad674bcb175",
    "clintox": "1ce50a234f123ed810a778f6f6f41bfb8bbbd5b657a919a0eab91996530b3990",
    "muv": "3ac08135b18feefe449849f1018149e38bde5e7958673a52a501d4b3d06d3e28",
    "hiv": "ea1370acf1646bfde42bf518005c48cf75841f47c8cf8f6adbe695cfeb54a793",
    "bace": "027dda7f60016c52ed5f4046bbfe96f242d766ecd1a7e2af2bf23f2cecb6a9bc",
    "esol": "01f4b2d2baeca4c8af02ab45231bd6da09590029a334295283cae28cd1df42b6",
    "freesolv": "3a2bdca18e0d8cca2056f8740b19dbe5a1669dde16e41e8d79994cd62ee71b99",
    "lipo": "4946243c76b276d9445fdbb11d3543cdaca6ebcf42e03ba86789202cd0e636a7",
}

FROM_RAW = ("muv", "toxcast")
"""Sets whose train part is the raw file without the molecules of the other two parts."""

NEEDS_RAW = (*FROM_RAW, "sider")
"""Sets whose labels have their names from the raw file."""


def _on_protocol_u(name: str) -> Dataset:
    """Describe a set on the split that MoleBLEND, GEM and Uni-Mol report."""
    raw = _RAW[name]
    parts = ("valid", "test") if name in FROM_RAW else ("train", "valid", "test")
    sizes = "/".join(f"{size:,}" for size in _U_SIZES[name])
    labels = ", ".join(raw.tasks) or f"{raw.n_tasks} labels"
    return replace(
        raw,
        title=f"{raw.title}, on protocol U",
        file=f"unimol_split/{name}.csv",
        also=(f"unimol_split/{name}.csv.gz",),
        sources=tuple(Source(f"{_MUBEN}/{name}/{part}.csv") for part in parts),
        columns=f"smiles, {labels}, split",
        smiles="smiles",
        split=f"protocol U: the column `split` is law; train/valid/test {sizes}",
        content=_U_CONTENT[name],
        citation=f"Zhou et al. (Uni-Mol), ICLR 2023; Li et al. (MUBen), TMLR 2024, "
        f"arXiv:2306.10060, whose repository has the parts; {raw.citation}",
        literature=sum(_U_SIZES[name]),
        expected=_EXPECTED.get(f"{name}-u"),
        note="",
        differs="",
    )


_EXPECTED = {
    "bbbp": Counts(
        rows=2_050,
        labels=2_050,
        positives=1_567,
        parsed=2_050,
        valid=2_039,
        largest=132,
        repeated=64,
        contradicting=10,
    ),
    "tox21": Counts(
        rows=7_831, labels=77_946, positives=5_862, parsed=7_831, valid=7_823, largest=132
    ),
    "toxcast": Counts(
        rows=8_597,
        labels=1_538_395,
        positives=127_070,
        parsed=8_597,
        valid=8_579,
        largest=124,
        fails=15,
    ),
    "sider": Counts(
        rows=1_427, labels=38_529, positives=21_868, parsed=1_427, valid=1_427, largest=492
    ),
    "clintox": Counts(
        rows=1_484,
        labels=2_968,
        positives=1_502,
        parsed=1_484,
        valid=1_480,
        largest=136,
        repeated=19,
        contradicting=19,
    ),
    "muv": Counts(
        rows=93_087, labels=249_886, positives=489, parsed=93_087, valid=93_087, largest=46
    ),
    "hiv": Counts(
        rows=41_127,
        labels=41_127,
        positives=1_443,
        parsed=41_127,
        valid=41_120,
        largest=222,
        blank_lines=41_126,
    ),
    "bace": Counts(rows=1_513, labels=1_513, positives=691, parsed=1_513, valid=1_513, largest=97),
    "esol": Counts(
        rows=1_128,
        labels=1_128,
        parsed=1_128,
        valid=1_128,
        largest=55,
        repeated=11,
        contradicting=1,
        padded=212,
    ),
    "freesolv": Counts(rows=642, labels=642, parsed=642, valid=642, largest=24),
    "lipo": Counts(rows=4_200, labels=4_200, parsed=4_200, valid=4_200, largest=115),
    "bbbp-u": Counts(
        rows=2_039,
        labels=2_039,
        positives=1_560,
        parsed=2_039,
        valid=2_039,
        largest=132,
        repeated=64,
        contradicting=10,
    ),
    "tox21-u": Counts(
        rows=7_831, labels=77_946, positives=5_862, parsed=7_831, valid=7_823, largest=132
    ),
    "toxcast-u": Counts(
        rows=8_579, labels=1_534_076, positives=126_652, parsed=8_579, valid=8_579, largest=124
    ),
    "sider-u": Counts(
        rows=1_427, labels=38_529, positives=21_868, parsed=1_427, valid=1_427, largest=492
    ),
    "clintox-u": Counts(
        rows=1_478,
        labels=2_956,
        positives=1_496,
        parsed=1_478,
        valid=1_478,
        largest=136,
        repeated=19,
        contradicting=19,
    ),
    "muv-u": Counts(
        rows=93_087, labels=249_886, positives=489, parsed=93_087, valid=93_087, largest=46
    ),
    "hiv-u": Counts(
        rows=41_127, labels=41_127, positives=1_443, parsed=41_127, valid=41_120, largest=222
    ),
    "bace-u": Counts(
        rows=1_513, labels=1_513, positives=691, parsed=1_513, valid=1_513, largest=97
    ),
    "esol-u": Counts(
        rows=1_128,
        labels=1_128,
        parsed=1_128,
        valid=1_128,
        largest=55,
        repeated=11,
        contradicting=1,
    ),
    "freesolv-u": Counts(rows=642, labels=642, parsed=642, valid=642, largest=24),
    "lipo-u": Counts(rows=4_200, labels=4_200, parsed=4_200, valid=4_200, largest=115),
    "qm9": Counts(
        rows=130_831, labels=1_569_972, parsed=130_831, valid=130_828, largest=9, repeated=87
    ),
    "moses": Counts(rows=1_936_962, parsed=193_697, valid=193_697, largest=26),
}
"""What the files with the known content hold. RDKit 2026.9.1 read their molecules."""

DATASETS: dict[str, Dataset] = {
    **{name: replace(raw, expected=_EXPECTED.get(name)) for name, raw in _RAW.items()},
    **{f"{name}-u": _on_protocol_u(name) for name in _RAW},
    "qm9": Dataset(
        title="molecules of up to 9 heavy atoms with B3LYP/6-31G(2df,p) geometries and properties",
        file="qm9/qm9.parquet",
        sources=(
            Source(
                "pypi:qm9pack==1.0.3",
                "sha256:1d88c2988007c6778e717ee3224cf511bd60e10732ebe3b7ed500ea5af05c9f0",
            ),
        ),
        columns="index, smiles, atomic_numbers, coordinates (Å), 12 targets, A, B, C",
        split="110,000 / 10,000 / the rest, at random with a seed",
        licence="CC0-1.0",
        citation="Ramakrishnan et al., Sci. Data 2014, doi:10.1038/sdata.2014.22",
        task="regression",
        metric="MAE",
        tasks=tuple(QM9_UNITS)[:12],
        n_tasks=12,
        units=QM9_UNITS,
        content="ed8fb03c2dbf429e5f361b1f964cf59aad7f105f8e36012c99ebf9d1ea37c61c",
        literature=130_831,
        expected=_EXPECTED.get("qm9"),
        note="without the 3,054 molecules that failed its consistency check; SMILES have no stereo "
        "marks; `read` adds the four atomisation energies (u0_atomisation, ...), which are the "
        "energies minus those of the free atoms; the geometries of indices 59827, 133857 and "
        "133859 do not fit their SMILES, and are not read",
    ),
    "pcqm4mv2": Dataset(
        title="SMILES and HOMO-LUMO gaps of PCQM4Mv2",
        file="pcqm4mv2/pcqm4m-v2.zip",
        sources=(Source(f"{_OGB}/pcqm4m-v2.zip", "md5:65b742bafca5670be4497499db7d361b"),),
        columns="idx, smiles, homolumogap (empty for the test parts)",
        split="split_dict.pt in the zip: train, valid, test-dev, test-challenge",
        licence="CC BY 4.0",
        citation="Hu et al., NeurIPS 2021, arXiv:2103.09430; Nakata and Shimazaki, J. Chem. Inf. "
        "Model. 2017, doi:10.1021/acs.jcim.7b00083",
        kind="pcqm4mv2",
        task="regression",
        metric="MAE",
        tasks=("gap",),
        n_tasks=1,
        units={"gap": "eV"},
        literature=3_746_620,
        note="the MD5 is the one that OGB publishes; a SHA-256 is not known",
    ),
    "pcqm4mv2-3d": Dataset(
        title="DFT geometries of the train part of PCQM4Mv2",
        file="pcqm4mv2/pcqm4m-v2-train.sdf.tar.gz",
        sources=(
            Source(f"{_OGB}/pcqm4m-v2-train.sdf.tar.gz", "md5:fd72bce606e7ddf36c2a832badeec6ab"),
        ),
        columns="mol blocks with hydrogens, in the order of the rows of pcqm4mv2",
        split="all of it is train",
        licence="CC BY 4.0",
        citation="Hu et al., NeurIPS 2021, arXiv:2103.09430; Nakata and Shimazaki, J. Chem. Inf. "
        "Model. 2017, doi:10.1021/acs.jcim.7b00083",
        kind="sdf",
        literature=3_378_606,
        note="read from inside the archive, which is never unpacked; the MD5 is the one that OGB "
        "publishes, a SHA-256 is not known",
    ),
    "moses": Dataset(
        title="lead-like molecules of ZINC, without geometry",
        file="moses/moses.parquet",
        sources=(
            Source(
                "pypi:molsets==0.3.1",
                "sha256:7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34",
            ),
        ),
        columns="smiles, split",
        split="the column `split`: train, test, test_scaffolds",
        licence="MIT",
        citation="Polykovskiy et al., Front. Pharmacol. 2020, doi:10.3389/fphar.2020.565644",
        content="55ed57038c39c906c24be0314e3255e2354308ed8e954e44a97ae56880be68fd",
        literature=1_936_962,
        expected=_EXPECTED.get("moses"),
    ),
    "geom-drugs": Dataset(
        title="drug-like molecules with many conformers each (GFN2-xTB)",
        file="geom/drugs.sdf.gz",
        also=("geom/drugs.sdf", "geom/drugs.parquet"),
        sources=(
            Source(
                "https://dataverse.harvard.edu/api/access/datafile/4360331",
                "md5:7778e84c50b7cde755cca670d1f75091",
            ),
        ),
        columns="a mol block (SDF), or smiles, atomic_numbers and coordinates (Å), per conformer",
        split="none",
        licence="CC0-1.0",
        citation="Axelrod and Gómez-Bombarelli, Sci. Data 2022, doi:10.1038/s41597-022-01288-4, "
        "doi:10.7910/DVN/JNGTDF",
        kind="conformers",
        literature=304_466,
        note="its authors publish pickles, which are never loaded, and MessagePack "
        "(drugs_crude.msgpack.tar.gz, the address above); conformers of a molecule stand together",
    ),
}
"""The data sets by name."""
