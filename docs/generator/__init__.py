"""Generate the pages of docs/reference/ and refresh the code excerpts on the pages of docs/concepts/.

Keys come from the schemas, options from the builders' parsers, recipes from their headers, the layout from module
docstrings, and excerpts from the code that they name. tests/test_docs.py fails if a page is out of date.
"""
