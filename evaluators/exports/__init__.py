"""What `export.py` writes for other programs: an ONNX file, and a web page that solves puzzles with it."""
