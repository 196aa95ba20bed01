"""The guide's figures, drawn from decodes of the bundled pair: `make docs-figures` writes them to `docs/guide`."""
