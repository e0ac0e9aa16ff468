"""Attacks and guidance."""
