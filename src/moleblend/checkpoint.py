"""placeholder"""
from moleblend.reference import from_reference
__all__ = ["from_reference"]
