"""The versions that our files and documents carry, in one place."""

__version__ = "0.1.0"  # of the package; pyproject.toml reads it here
JSON_SCHEMA = 1  # of the documents of --format json
