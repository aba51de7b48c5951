"""The paper's mathematics, one function per equation."""
