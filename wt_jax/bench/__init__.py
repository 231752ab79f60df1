"""Measurements: loader, step, their peers, and kills."""
