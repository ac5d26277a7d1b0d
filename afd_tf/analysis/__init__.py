"""Trained networks compared and explained."""
