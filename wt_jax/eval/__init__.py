"""Evaluation of frozen features: kNN, linear probe, retrieval, scores and the pictures of a run.

Every part takes plain arrays, float32 features (N, D) and integer labels (N,), so that features of any origin can be
judged by the same rules. Protocols: Wu et al. 2018 (arXiv 1805.01978) for kNN, CoCLR (arXiv 2010.09709) for the rest.
"""
