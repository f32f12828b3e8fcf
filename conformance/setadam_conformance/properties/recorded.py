"""Steps on gradients that real training made."""
