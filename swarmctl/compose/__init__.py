"""Compose files: from YAML to the specs of a stack. Pure but for `load` (files, environment)."""
