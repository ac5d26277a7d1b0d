"""Exported models: written, measured and run."""
