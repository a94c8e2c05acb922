"""What leaves the store: exported students, and bundles of results that others can verify."""
