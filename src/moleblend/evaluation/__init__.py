"""Metrics, baselines, error analysis, calibration, uncertainty: arrays in, numbers out.

Nothing here knows the network.
"""
