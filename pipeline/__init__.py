"""sealstream: customer events in, identity-resolved profiles out, no personal data in the clear."""

__version__ = "0.1.0"
