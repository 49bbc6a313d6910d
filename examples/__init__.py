"""Examples: applications to seal, and the demonstration that `make run` shows. Nothing in `stele` imports from here."""
