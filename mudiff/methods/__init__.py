"""One file per method behind one interface; `base.build` makes any of them from its settings."""
