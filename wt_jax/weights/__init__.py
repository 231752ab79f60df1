"""Encoders on disk: folders of exported weights, model cards, and conversion from other projects."""
