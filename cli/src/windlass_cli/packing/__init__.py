"""Turning a model into a version: `<models>/<model>/<version>/` with a manifest that is written last."""
