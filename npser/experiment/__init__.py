"""Experiments: one run, cross-validations, their baselines and reports, and the estimator in scikit-learn's manner."""
