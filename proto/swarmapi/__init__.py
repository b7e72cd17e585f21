"""The contract: model, errors, ids, identity and the conversations between nodes."""
