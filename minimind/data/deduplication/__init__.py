"""Exact and near duplicates: what two texts must share, candidates, proof, and who stays."""
