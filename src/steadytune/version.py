"""The version of steadytune, apart from the package so that nobody imports all of it to ask."""

__version__ = "0.2.0"
