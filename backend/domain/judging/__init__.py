"""Judges committed batches: right, wrong with a fraud proof, or undecided until demands are answered."""
