"""The organism: the bundled model, an instrument for testing instruments."""
