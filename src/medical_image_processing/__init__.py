"""Runs medical-imaging algorithms: register one, send it studies from a PACS, get DICOM back."""

__version__ = "0.1.0"
