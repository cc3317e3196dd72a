"""Readable reasons for texts that RDKit cannot parse."""

import logging
import re
import threading
import unicodedata
from collections.abc import Generator
from contextlib import contextmanager

from moleblend.errors import MoleblendError, MoleculeError

MISSING_WORDS = frozenset(
    [
        *("na", "n/a", "#n/a", "n.a.", "n.a", "nan", "none", "null", "-", "--", ".", "?"),
        *("nd", "n.d.", "n.d", "nt", "n.t.", "missing"),
        *("not determined", "not tested", "not available"),
        *("#value!", "#div/0!", "#ref!", "#num!", "#name?", "#null!"),
    ]
)
"""Words, in lower case, for a missing value in any column; an empty cell is missing too."""

_OTHER_CONTENT = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"#[A-Z]+[/\d]*[!?]$", "it is a spreadsheet error"),
        (
            rf"(?i)({'|'.join(map(re.escape, sorted(MISSING_WORDS)))}|-+)$",
            "it marks a missing value",
        ),
        (r"(?i)InChI=", "it is an InChI"),
        (r"[A-Z]{14}-[A-Z]{10}-[A-Z]$", "it is an InChIKey"),
        (r"\d{2,7}-\d\d-\d$", "it looks like a CAS number"),
        (r"[+-]?\d+([.,]\d+)?$", "it is a number"),
        (r"[^<>]*>[^<>]*>[^<>]*$", "it is a reaction, expected one molecule"),
        (r".*\[R\d*\]", "an R group represents many molecules, expected one"),
        (r".*\[[^\]]*([;,!$&]|[A-Za-z]X\d)", "it looks like SMARTS, a pattern for many molecules"),
        (r"(?=.*H\d)([A-Z][a-z]?\d*)+$", "it looks like a molecular formula"),
        # None of these letters is an aromatic atom or the last letter of an organic element.
        (r"(?=.*[adefghijkmqtuvwxyz])[A-Za-z][A-Za-z\d,'-]{3,}$", "it looks like a name"),
    )
)
"""Patterns of other content in SMILES columns, matched at the beginning of the text."""

_EXPLANATIONS = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (
            r"Explicit valence for atom # (?P<atom>\d+) (?P<element>\w+), (?P<valence>\d+), .*",
            "atom {atom}, {element}, has a valence of {valence}, more than allowed",
        ),
        (
            r"Can't kekulize mol\. Unkekulized atoms: (?P<atoms>[\d ]+)",
            "can't kekulize: no double bonds fit the aromatic atoms {atoms}; [nH] may be missing",
        ),
        (
            r"non-ring atom (?P<atom>\d+) marked aromatic",
            "atom {atom} is written as aromatic, but is not in a ring",
        ),
        (
            r"duplicated ring closure (?P<ring>\d+) bonds atom (?P<atom>\d+) to itself",
            "ring closure {ring} bonds atom {atom} to itself",
        ),
        (
            r"ring closure (?P<ring>.+) duplicates bond .* atom (?P<atom>\d+) .* (?P<atom2>\d+)",
            "ring closure {ring} connects atoms {atom} and {atom2}, which are already bonded",
        ),
        (r"unclosed ring", "unclosed ring: a ring closure number occurs only once"),
    )
)
"""RDKit's messages, which count atoms from 0, and the reasons that replace them."""

_ELEMENTS = (
    " H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se"
    " Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy"
    " Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf"
    " Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og "
)

_MAX_SHOWN = 80


class RdkitErrorCollector(logging.Handler):
    """Logging handler that keeps RDKit's most severe message, separately for each thread."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first message of the highest level; later ones are consequences of it."""
        text = re.sub(r"^(\[[\d:]+\] )?(SMILES Parse Error: )?", "", record.getMessage())
        text = " ".join(text.strip("* \n").split())
        if match := re.match(r"check for mistakes around position (\d+)", text):
            self._kept.position = int(match[1])
        elif text and record.levelno > getattr(self._kept, "level", 0):
            self._kept.level, self._kept.text = record.levelno, text

    def clear(self) -> None:
        """Remove the message and the position of this thread."""
        self._kept.level = self._kept.position = 0

    def reason(self, smiles: str = "") -> str:
        """Explain in one line why RDKit could not parse the input since the last `clear`.

        Args:
            smiles: the input; empty for a mol block.
        """
        message = self._kept.text if getattr(self._kept, "level", 0) else "RDKit gives no reason"
        message = re.sub(r" (while parsing|for input): .*", "", message)  # RDKit repeats the SMILES
        for pattern, reason in _EXPLANATIONS:
            if match := pattern.fullmatch(message):
                return reason.format(
                    **{name: _count_from_1(name, match[name]) for name in match.re.groupindex}
                )
        if description := _describe_other_content(smiles):
            return description
        position = getattr(self._kept, "position", 0)
        if message == "syntax error" and 0 < position <= len(smiles):
            return f"{message} at character {position}, {smiles[position - 1]!r}"
        return message


@contextmanager
def rdkit_refusals(name: str) -> Generator[None, None, None]:
    """Turn an exception of RDKit about one molecule into the error of that molecule.

    RDKit raises `ValueError` and `RuntimeError` where it finds later that it cannot use a molecule
    that it has read.

    Raises:
        MoleculeError: the message starts with `name`.
    """
    try:
        yield
    except MoleblendError:
        raise
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise MoleculeError(f"{name}: RDKit cannot use the molecule: {reason}") from error


def shown(text: str) -> str:
    """Return a text, or its beginning if it is long."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def invalid_character(text: str) -> str:
    """Name the first character that is not allowed in SMILES; "" if there is none.

    RDKit ignores some of these characters silently.
    """
    if text.isascii() and text.isprintable():
        return ""
    invalid = next(letter for letter in text if not (letter.isascii() and letter.isprintable()))
    return f"{invalid!r} ({unicodedata.name(invalid, 'control character').lower()})"


def _describe_other_content(text: str) -> str:
    """Describe a text that is not a SMILES; "" if it may be one."""
    for pattern, reason in _OTHER_CONTENT:
        if pattern.match(text):
            return reason
    for opening, closing, name in (("[", "]", "bracket"), ("(", ")", "parenthesis")):
        n_open = text.count(opening) - text.count(closing)
        if n_open:
            return f"unmatched {name} {opening if n_open > 0 else closing!r}"
    for symbol in re.findall(r"\[\d*([A-Z][a-z]?)", text):
        if not any(f" {name} " in _ELEMENTS for name in (symbol, symbol[0])):
            return f"{symbol} is not an element"
    return ""


def _count_from_1(name: str, value: str) -> str:
    """Convert atom indices that count from 0."""
    if not name.startswith("atom"):
        return value
    return ", ".join(str(int(number) + 1) for number in value.split())
