"""Requests made from the API's own document, thrown at the real applications."""
