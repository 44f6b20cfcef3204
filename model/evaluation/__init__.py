"""What a model version is worth: metrics, calibration, thresholds, out-of-distribution images."""
