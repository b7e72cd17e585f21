"""Fakes of our ports, shared by the test packages."""
