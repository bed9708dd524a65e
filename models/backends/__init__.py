"""How the networks of an architecture are run: each backend is a file or package here."""
