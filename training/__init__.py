"""Learning: data, objectives, the loop, probes, evaluation, the phantom."""
