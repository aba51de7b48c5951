"""Notebooks run by papermill, artefacts, the register and the report."""
