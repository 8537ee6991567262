"""The commands as functions; see docs/api.md. Importing this room imports nothing of it."""
