"""Molecules: parsing, features, conformers, fingerprints, standardization.

RDKit is imported in this package only. `Molecule` is the record that the other packages read.
"""
