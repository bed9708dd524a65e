"""Turn a model and test data into numbers, answers, figures and reports."""
