"""The demo: a story of fictional customers, and its stage."""
