"""What is wrong with a text that RDKit refuses, said for a chemist."""

import logging
import re
import threading
import unicodedata

MISSING_WORDS = frozenset(
    [
        *(
            "na",
            "n/a",
            "#n/a",
            "n.a.",
            "n.a",
            "nan",
            "none",
            "null",
            "-",
            "--",
            ".",
            "?",
            "missing",
        ),
        *("nd", "n.d.", "n.d", "nt", "n.t.", "not determined", "not tested", "not available"),
        *("#value!", "#div/0!", "#ref!", "#num!", "#name?", "#null!"),
    ]
)
"""Words, in lower case, for a missing value in any column; an empty cell is missing too."""

_OTHER_THINGS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"#[A-Z]+[/\d]*[!?]$", "it is an error of a spreadsheet"),
        (
            rf"(?i)({'|'.join(map(re.escape, sorted(MISSING_WORDS)))}|-+)$",
            "it stands for a missing value",
        ),
        (r"(?i)InChI=", "it is an InChI"),
        (r"[A-Z]{14}-[A-Z]{10}-[A-Z]$", "it is an InChIKey"),
        (r"\d{2,7}-\d\d-\d$", "it looks like a CAS number"),
        (r"[+-]?\d+([.,]\d+)?$", "it is a number"),
        (r"[^<>]*>[^<>]*>[^<>]*$", "it is a reaction, one molecule was expected"),
        (r".*\[R\d*\]", "an R group stands for many molecules, one was expected"),
        (r".*\[[^\]]*([;,!$&]|[A-Za-z]X\d)", "it looks like SMARTS, a pattern of many molecules"),
        (r"(?=.*H\d)([A-Z][a-z]?\d*)+$", "it looks like a sum formula"),
        # no letter of these is an aromatic atom or ends the name of an organic one
        (r"(?=.*[adefghijkmqtuvwxyz])[A-Za-z][A-Za-z\d,'-]{3,}$", "it looks like a name"),
    )
)
"""Beginnings of what is found in columns of SMILES and is none."""

_WORDS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (
            r"Explicit valence for atom # (?P<atom>\d+) (?P<element>\w+), (?P<valence>\d+), .*",
            "atom {atom}, {element}, has a valence of {valence}, more than it can have",
        ),
        (
            r"Can't kekulize mol\. Unkekulized atoms: (?P<atoms>[\d ]+)",
            "can't kekulize: no double bonds fit the aromatic atoms {atoms}, [nH] may be meant",
        ),
        (
            r"non-ring atom (?P<atom>\d+) marked aromatic",
            "atom {atom} is written as aromatic, but is in no ring",
        ),
        (
            r"duplicated ring closure (?P<ring>\d+) bonds atom (?P<atom>\d+) to itself",
            "ring closure {ring} bonds atom {atom} to itself",
        ),
        (
            r"ring closure (?P<ring>.+) duplicates bond .* atom (?P<atom>\d+) .* (?P<atom2>\d+)",
            "ring closure {ring} joins atoms {atom} and {atom2}, which are bonded already",
        ),
        (r"unclosed ring", "unclosed ring, a number of a ring closure stands alone"),
    )
)
"""What RDKit says, which counts atoms from 0, and what a chemist would."""

_ELEMENTS = (
    " H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se"
    " Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy"
    " Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf"
    " Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og "
)

_MOST_SHOWN = 80


class RdkitErrorCollector(logging.Handler):
    """Keeps RDKit's gravest complaint, apart for each thread."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first of the gravest records: later ones only follow from it."""
        text = re.sub(r"^(\[[\d:]+\] )?(SMILES Parse Error: )?", "", record.getMessage())
        text = " ".join(text.strip("* \n").split())
        if found := re.match(r"check for mistakes around position (\d+)", text):
            self._kept.position = int(found[1])
        elif text and record.levelno > getattr(self._kept, "level", 0):
            self._kept.level, self._kept.text = record.levelno, text

    def forget(self) -> None:
        """Start anew."""
        self._kept.level = self._kept.position = 0

    def reason(self, smiles: str = "") -> str:
        """Say in one line why RDKit refused a SMILES, or a mol block, since the last `forget`."""
        said = self._kept.text if getattr(self._kept, "level", 0) else "RDKit gives no reason"
        said = re.sub(r" (while parsing|for input): .*", "", said)  # RDKit repeats the SMILES
        for pattern, words in _WORDS:
            if found := pattern.fullmatch(said):
                return words.format(
                    **{name: _counted(name, found[name]) for name in found.re.groupindex}
                )
        if told := _about_text(smiles):
            return told
        place = getattr(self._kept, "position", 0)
        if said == "syntax error" and 0 < place <= len(smiles):
            return f"{said} at character {place}, {smiles[place - 1]!r}"
        return said


def shown(text: str) -> str:
    """A text, or its beginning where it is long."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def odd_character(text: str) -> str:
    """Name the first character that no SMILES has; RDKit passes over some of them in silence."""
    if text.isascii() and text.isprintable():
        return ""
    odd = next(letter for letter in text if not (letter.isascii() and letter.isprintable()))
    return f"{odd!r} ({unicodedata.name(odd, 'control character').lower()})"


def _about_text(text: str) -> str:
    """Say what a text is that is no SMILES; nothing where it might be meant as one."""
    for pattern, words in _OTHER_THINGS:
        if pattern.match(text):
            return words
    for opening, closing, name in (("[", "]", "bracket"), ("(", ")", "parenthesis")):
        n_open = text.count(opening) - text.count(closing)
        if n_open:
            return f"{name} {opening if n_open > 0 else closing!r} without its partner"
    for symbol in re.findall(r"\[\d*([A-Z][a-z]?)", text):
        if not any(f" {name} " in _ELEMENTS for name in (symbol, symbol[0])):
            return f"{symbol} is no element"
    return ""


def _counted(name: str, value: str) -> str:
    """Count atoms from 1."""
    if not name.startswith("atom"):
        return value
    return ", ".join(str(int(number) + 1) for number in value.split())
