"""Use cases: validate, make changes, propose."""
