"""The nouns: specs as Docker spells them, and the objects the store holds."""
