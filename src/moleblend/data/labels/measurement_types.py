"""Columns that name the type of each measurement, such as IC50 or Ki."""

import re
from collections.abc import Collection

from moleblend.data.labels.cell_values import TableCells

_TYPES = re.compile(
    r"p?(ic|ec|ac|gi|cc|ed|ld|lc|tc|xc|mic)[ _-]?\d{0,2}|p?k[idbm]|potency|activity|inhibition|"
    r"efficacy|emax|log ?[dps]|solubility|permeability|papp|clearance|half[ _-]?life|t1/2|"
    r"percent (inhibition|activity)",
    re.IGNORECASE,
)
_MOST_TYPES = 30


def mixed_type_notes(table_cells: TableCells, others: Collection[str]) -> list[str]:
    """Tell about columns that name several types of measurement, which one target would mix.

    Args:
        table_cells: cells of the table.
        others: columns with another purpose, the targets among them.
    """
    notes = []
    names = table_cells.table.names
    for name in dict.fromkeys(names):
        cells = table_cells[name] if names.count(name) == 1 and name not in others else None
        if cells is None or not 2 <= len(cells.texts) <= _MOST_TYPES:
            continue
        if not all(_TYPES.fullmatch(text) for text in cells.texts):
            continue
        counts = zip(cells.texts, cells.counts.tolist(), strict=True)
        ranked = sorted(counts, key=lambda item: -item[1])
        listed = ", ".join(f"{text} ({count:,} rows)" for text, count in ranked[:4])
        notes.append(
            f"column {name!r} names several types of measurement: {listed}; they are learned as "
            "one, keep the rows of one type if they cannot be compared"
        )
    return notes
