"""How a pass runs: eagerly, compiled, or captured."""
