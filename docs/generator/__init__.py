"""Writes the generated pages of docs/reference/, and refreshes the code excerpts on the pages of docs/concepts/.

Keys come from the schemas, options from the builders' parsers, recipes from their headers, the layout from module
docstrings, excerpts from the code that they name. tests/test_docs.py fails if a page is not current.
"""
