"""Pure reconcilers: how many tasks a service has, and which of them must stop."""
