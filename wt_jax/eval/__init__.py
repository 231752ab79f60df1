"""Evaluation of frozen features: protocols, metrics, results and the report of a run.

Every protocol takes plain arrays, float32 features (N, D) and integer labels (N,), so that features of any origin are
evaluated by the same rules. `evaluate` is the core of the evaluation command, `online` and `final` evaluate a run.
"""
