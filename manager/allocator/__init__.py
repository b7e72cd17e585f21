"""Pure allocation of subnets, addresses, virtual IPs, ports and mesh shares."""
