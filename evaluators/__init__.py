"""A model and test data turned into numbers, answers, figures and reports."""
