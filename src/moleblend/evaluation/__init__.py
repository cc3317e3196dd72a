"""Metrics, baselines, error analysis, calibration and uncertainty of predictions.

The functions take arrays and return numbers; none depends on the network.
"""
