"""Column names: their words, units and logarithms."""

import re

_P_VALUE = re.compile(r"p(IC|EC|AC|GI|CC|ED|LD)\s?\d\d|p?K[idb]", re.IGNORECASE)
_NEGATIVE_LOG = re.compile(
    r"(^|[^A-Za-z])p[A-Z]|(?i:(^|[^a-z])p(ic|ec|ac|gi|cc|ed|ld|lc|tc|k|a2|chembl|act|pot|aff)|"
    r"neg(ative)?[\W_]*log|[-\N{EN DASH}\N{MINUS SIGN}]\s*log|log\w*[\W_]*1\s*/|colog)"
)
_UNITS = (
    *("pM", "nM", "uM", "µM", "μM", "mM", "mol/L", "mg/L", "g/L", "ug/mL", "µg/mL", "mg/mL"),
    *("mg/kg", "kcal/mol", "kJ/mol", "eV", "meV", "%", "percent", "min", "hours"),
)


def words_of(name: str) -> list[str]:
    """Split a name into words and numbers, in lower case.

    Example:
        >>> words_of("Standard Relation"), words_of("IC50_nM"), words_of("heavyAtomCount")
        (['standard', 'relation'], ['ic', '50', 'n', 'm'], ['heavy', 'atom', 'count'])
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return [word.lower() for word in words]


def unit_of(name: str) -> str:
    """Extract the unit from a column name. Units are recorded; values are never converted.

    Example:
        >>> unit_of("IC50 [nM]"), unit_of("solubility (mg/L)"), unit_of("pIC50"), unit_of("ic50_nM")
        ('nM', 'mg/L', '-log10(mol/L)', 'nM')
    """
    bracket = re.search(r"[(\[]([^()\[\]]+)[)\]]\s*$", name)
    if bracket:
        return bracket[1].strip()
    if re.search(r"(^|[\W_])(" + _P_VALUE.pattern + r")($|[\W_])", name) and re.search(
        r"(^|[\W_])p", name
    ):
        return "-log10(mol/L)"
    for unit in _UNITS:
        if re.search(rf"[\s_/]{re.escape(unit)}$", name, re.IGNORECASE):
            return unit
    words = re.search(r"\bin ([^()\[\]]+)$", name)
    if words:
        return f"{'log ' if re.search(r'log', name, re.IGNORECASE) else ''}{words[1].strip()}"
    return ""


def may_be_negative_log(name: str) -> bool:
    """Whether a name may denote a negative logarithm, which decreases as the value increases.

    Example:
        >>> may_be_negative_log("pIC50"), may_be_negative_log("Ki (nM)")
        (True, False)
    """
    return bool(_NEGATIVE_LOG.search(name))


def is_logarithm(name: str) -> bool:
    """Whether a name denotes a logarithm.

    Example:
        >>> is_logarithm("logS"), is_logarithm("log10_IC50"), is_logarithm("catalogue")
        (True, True, False)
    """
    return any(word.startswith("log") or word in ("ln", "lg") for word in words_of(name))
