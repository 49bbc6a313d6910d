"""Stele: seal an application into one signed release, run it immutably, notice, replace, prove."""

__version__ = "0.1.0"
